from preparation.readers.colmap import Colmap, __doc__
from preparation.readers.command import run

if __name__ == "__main__":
    run(Colmap, __doc__)
