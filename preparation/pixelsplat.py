from preparation.readers.command import run
from preparation.readers.pixelsplat import PixelSplat, __doc__

if __name__ == "__main__":
    run(PixelSplat, __doc__)
