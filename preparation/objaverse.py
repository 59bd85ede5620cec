from preparation.readers.command import run
from preparation.readers.objaverse import Objaverse, __doc__

if __name__ == "__main__":
    run(Objaverse, __doc__)
