from preparation.readers.command import run
from preparation.readers.dl3dv import DL3DV, __doc__

if __name__ == "__main__":
    run(DL3DV, __doc__)
