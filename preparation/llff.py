from preparation.readers.command import run
from preparation.readers.llff import LLFF, __doc__

if __name__ == "__main__":
    run(LLFF, __doc__)
