from preparation.readers.command import run
from preparation.readers.movi import Movi, __doc__

if __name__ == "__main__":
    run(Movi, __doc__)
