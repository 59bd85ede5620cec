from preparation.readers.command import run
from preparation.readers.nvidia_dynamic import NvidiaDynamic, __doc__

if __name__ == "__main__":
    run(NvidiaDynamic, __doc__)
