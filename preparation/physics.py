from preparation.synthetic.furniture_command import run
from preparation.synthetic.physics import __doc__, make_scene

if __name__ == "__main__":
    run("physics", __doc__, make_scene)
