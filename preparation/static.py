from preparation.synthetic.furniture_command import run
from preparation.synthetic.static import __doc__, make_scene

if __name__ == "__main__":
    run("static", __doc__, make_scene)
