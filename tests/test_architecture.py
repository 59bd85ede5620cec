"""The house rules that a machine can check: who imports whom, and what no file may hold."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("scene4d", "datamodules", "preparation", "lightning_modules", "callbacks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FILES += [ROOT / "main.py"] if (ROOT / "main.py").exists() else []

# what each part of scene4d may import of scene4d, itself and ANYWHERE aside; a part stands below all that use it
ANYWHERE = {"atomic"}
WITHIN_SCENE4D = {
    "atomic": set(),
    "file_names": set(),
    "messages": set(),
    "pictures": set(),
    "folders": set(),
    "interruption": set(),
    "types": set(),
    "references": set(),
    "stages": {"latent_grid"},
    "latent_grid": set(),
    "kernels": set(),
    "distributed": set(),
    "video_files": set(),
    "geometry": {"types"},
    "sample_meta": set(),
    "transforms_json": set(),
    "sample_arrays": set(),
    "avif_video": {"pictures"},
    "sample_pictures": {"sample_arrays", "video_files", "pictures", "avif_video"},
    "sample_format": {"sample_arrays", "sample_meta", "sample_pictures"},
    "sample_changes": {"sample_arrays", "sample_format"},
    "grid_format": {"types"},
    "diffusion": {"types", "latent_grid"},
    "losses": {"types", "latent_grid", "geometry"},
    "gaussians": {"types", "geometry"},
    "visualization": {"types", "geometry", "video_files"},
    "rendering": {"types", "geometry", "gaussians"},
    "viewer": {"types", "gaussians", "rendering"},
    "captures": {"types", "geometry", "visualization"},
    "networks": {"types", "latent_grid", "geometry", "kernels", "gaussians", "distributed"},
    "pipelines": {
        "types", "references", "latent_grid", "geometry", "gaussians", "rendering", "diffusion", "networks",
    },
    "evaluation": {
        "types", "references", "latent_grid", "geometry", "gaussians", "rendering", "diffusion", "networks",
        "pipelines", "losses", "visualization", "distributed",
    },
}  # fmt: skip
# what each package may import of the project
BETWEEN_PACKAGES = {
    "scene4d": {"scene4d"},
    "datamodules": {"datamodules", "scene4d"},
    "preparation": {"preparation", "datamodules", "scene4d"},
    "lightning_modules": {"lightning_modules", "scene4d"},
    "callbacks": {"callbacks", "scene4d"},
    "main": {"lightning_modules", "datamodules", "callbacks", "scene4d"},
}
FOR_DATAMODULES = {
    "types", "latent_grid", "geometry", "sample_format", "grid_format", "video_files", "folders",
    "interruption", "references", "stages", "pictures", "transforms_json",
}  # fmt: skip
FOR_PREPARATION = FOR_DATAMODULES | {
    "atomic",
    "sample_meta",
    "sample_pictures",
    "sample_changes",
    "avif_video",
}
# they run the autoencoder and the text encoder so that training need not
MORE_FOR = {
    "preparation/captions.py": {"networks"},
    "preparation/eight_bits.py": {"networks"},
    "preparation/latents.py": {"networks"},
    "preparation/linear_codec.py": {"networks"},
    "preparation/linear_predictor.py": {"networks", "evaluation"},
    "preparation/writing/captions.py": {"networks"},
    "preparation/writing/rewriting.py": {"messages"},
}
# what each room of preparation may import of the others; the commands beside the rooms may import all of them
ROOMS = {
    "rendering": set(),
    "writing": set(),
    "readers": {"rendering", "writing"},
    "synthetic": {"rendering", "writing"},
    "videos": {"writing"},
}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics.lightning"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_modules(path: Path) -> list[str]:
    """Absolute dotted names of everything a file imports, imports inside functions too."""
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(ROOT).parts[: -node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def part_of(module: str) -> str:
    """`scene4d.networks.wan.X` -> networks."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_import_one_way(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {module.split(".")[0] for module in imported_modules(path)} & {*PACKAGES, "main"}
    assert ours <= BETWEEN_PACKAGES[package]


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "scene4d")], ids=name_of)
def test_scene4d_imports_one_way(path):
    part = path.relative_to(ROOT / "scene4d").parts[0].removesuffix(".py")
    used = {part_of(module) for module in imported_modules(path) if module.startswith("scene4d.")}
    if part != "__init__":
        assert part in WITHIN_SCENE4D, f"{part} has no place in the import order yet"
        assert used - {part} <= WITHIN_SCENE4D[part] | ANYWHERE
    else:
        assert used <= WITHIN_SCENE4D.keys()


def file_of(module: str) -> Path | None:
    """The file of ours that holds a module or a name of it."""
    while module:
        for path in (
            ROOT / f"{module.replace('.', '/')}.py",
            ROOT / module.replace(".", "/") / "__init__.py",
        ):
            if path in FILES:
                return path
        module = module.rpartition(".")[0]
    return None


def circles(graph: dict) -> list[list]:
    """Circles of a directed graph: one for every edge that leads back to where the search came from."""
    found, done = [], set()

    def visit(node, way):
        if node in way:
            found.append([*way[way.index(node) :], node])
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                visit(following, [*way, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def test_no_circles_between_files():
    """Imports within functions and under TYPE_CHECKING count: a circle is one, however it is hidden."""
    graph = {
        name_of(path): {
            name_of(file)
            for module in imported_modules(path)
            if (file := file_of(module)) not in (None, path)
        }
        for path in FILES
    }
    assert circles(graph) == []


def test_no_circles_between_parts_and_packages():
    assert circles(WITHIN_SCENE4D) == []
    assert circles({name: used - {name} for name, used in BETWEEN_PACKAGES.items()}) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "datamodules")], ids=name_of)
def test_data_knows_no_network(path):
    used = {part_of(module) for module in imported_modules(path) if module.startswith("scene4d.")}
    assert used <= FOR_DATAMODULES


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "preparation")], ids=name_of)
def test_rooms_of_preparation_import_one_way(path):
    modules = imported_modules(path)
    used = {part_of(module) for module in modules if module.startswith("scene4d.")}
    assert used <= FOR_PREPARATION | MORE_FOR.get(name_of(path), set())
    room = path.relative_to(ROOT / "preparation").parts[0]
    if room in ROOMS:
        rooms = {part_of(module) for module in modules if module.startswith("preparation.")}
        assert rooms - {room} <= ROOMS[room]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_lightning_and_webdataset_stay_at_their_places(path):
    top = {module.split(".")[0] for module in imported_modules(path)}
    if path.is_relative_to(ROOT / "scene4d"):
        assert not top & LIGHTNING
    if path.relative_to(ROOT).parts[0] not in ("datamodules", "preparation"):
        assert not top & {"webdataset", "wids"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_unpickled(path):
    top = {module.split(".")[0] for module in imported_modules(path)}
    assert not top & {"cPickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}
    if "pickle" in top:  # only to derive an unpickler that refuses all names but a few
        assert "find_class" in {
            node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)
        }
        assert not [x for x in calls(path) if ast.unparse(x.func).startswith("pickle.")]
    for call in calls(path):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            assert options.get("weights_only") == "True", f"line {call.lineno}"
        if ast.unparse(call.func) in ("np.load", "numpy.load"):
            assert options.get("allow_pickle", "False") == "False", f"line {call.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_of_strangers_go_through_one_door(path):
    """Pillow starts Ghostscript for some files, FFmpeg follows scripts, and torch's checkpoints of folders unpickle."""
    doors = {"Image.open": "scene4d/pictures.py", "av.open": "scene4d/video_files/"}
    for call in calls(path):
        name = ast.unparse(call.func)
        if name in doors and ast.unparse(call.args[1] if len(call.args) > 1 else call.func) != "'w'":
            assert name_of(path).startswith(doors[name]), f"line {call.lineno}: {name}"
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("trust_remote_code", "False") == "False", f"line {call.lineno}"
    assert not {"FileSystemReader", "DefaultLoadPlanner"} & {
        x.rsplit(".", 1)[-1] for x in imported_modules(path)
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_print_and_no_search_path(path):
    assert not [f"line {x.lineno}" for x in calls(path) if ast.unparse(x.func) == "print"]
    assert not {"sys.path", "site.addsitedir"} & set(imported_modules(path))
    for node in ast.walk(tree_of(path)):
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), (
            f"line {node.lineno}"
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_have_names_that_say_something(path):
    vague = {"utils", "util", "misc", "common", "helpers", "helper", "tools"}
    assert not vague & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "from . import a\nfrom ..gaussians.ply import write",
            ["scene4d.networks.a", "scene4d.gaussians.ply.write"],
        ),
        ("def f():\n    import lightning.pytorch as pl", ["lightning.pytorch"]),
        ("from scene4d import kernels", ["scene4d.kernels"]),
    ],
)
def test_imports_are_found_however_written(text, expected, monkeypatch, tmp_path):
    """So that the checks above cannot be passed by writing an import another way."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "scene4d" / "networks" / "wan.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert imported_modules(path) == expected


def test_test_files_have_unique_names():
    """pytest without __init__.py files tells them apart by name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)) > 1
