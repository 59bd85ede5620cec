from preparation.readers.command import run
from preparation.readers.synchronized import Synchronized, __doc__

if __name__ == "__main__":
    run(Synchronized, __doc__)
