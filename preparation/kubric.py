from preparation.readers.command import run
from preparation.readers.kubric import Kubric, __doc__

if __name__ == "__main__":
    run(Kubric, __doc__)
