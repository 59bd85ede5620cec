from preparation.readers.command import run
from preparation.readers.realestate import RealEstate, __doc__

if __name__ == "__main__":
    run(RealEstate, __doc__)
