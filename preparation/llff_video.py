from preparation.readers.command import run
from preparation.readers.llff_video import LLFFVideo, __doc__

if __name__ == "__main__":
    run(LLFFVideo, __doc__)
