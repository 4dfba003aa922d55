from __future__ import annotations

import pytest

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.scoring.origins import MAX_CODE_CHARS, MAX_NAME_CHARS, Program, parse


def origins(code: str) -> set[str]:
    return {origin for use in Program(parse(code)).uses() for origin in use.origins}


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.system",
        "import os as o\no.system",
        "import os.path\nos.system",
        "from os import system\nsystem",
        "from os import system as s\ns",
        "from os import *\nsystem",
        "import posix\nposix.system",
        "import os\nx = os\ny = x\ny.system",
        "import os\nx, y = os, 1\nx.system",
        "import os\n(x := os).system",
        "import os\n(os if True else None).system",
        "import os\n(None or os).system",
        "import os\ndef f(o=os):\n    return o.system",
        "import os\nf = lambda o=os: o.system",
        "import os\nclass A:\n    o = os\n    def f(self):\n        return self.o.system",
        "import os\nclass A:\n    def __init__(self):\n        self.o = os\nA().o.system",
        "import os, types\nn = types.SimpleNamespace()\nn.o = os\nn.o.system",
        "getattr(__import__('os'), 'system')",
        "__import__('os').system",
        "from importlib import import_module as load\nload('os').system",
        "import sys\nsys.modules['os'].system",
        "import sys\nsys.modules.get('os').system",
        "import os\ngetattr(os, 'sys' + 'tem')",
        "import os\ngetattr(os, ''.join(['sys', 'tem']))",
        "import os\ngetattr(os, 'metsys'[::-1])",
        "import os\nname = 'system'\ngetattr(os, name)",
        "import os\npart = 'sys'\ngetattr(os, f'{part}tem')",
        "import os\nvars(os)['system']",
        "import os\nos.__dict__['system']",
        "import os\nfrom operator import attrgetter\nattrgetter('system')(os)",
        "async def f():\n    import os\n    return os.system",
        "import os\n@os.system\ndef f(): ...",
        "def outer():\n    global o\n    import os as o\ndef inner():\n    o.system",
    ],
)
def test_a_value_keeps_its_origin_under_every_name(code: str) -> None:
    assert "os.system" in origins(code)


@pytest.mark.parametrize(
    "code",
    [
        "eval",
        "import builtins\nbuiltins.eval",
        "__builtins__.eval",
        "__builtins__['eval']",
        "globals()['__builtins__']['eval']",
        "print.__self__.eval",
        "if False:\n    eval = None\neval('1')",
        "eval('1')\ndef eval(text): ...",
        "class A:\n    def eval(self): ...\n    def run(self):\n        eval('1')",
        "[eval for eval in [eval]]",
        "def f(x: eval('1')): ...",
    ],
)
def test_a_builtin_is_found_unless_its_name_surely_means_another(code: str) -> None:
    assert "builtins.eval" in origins(code)


@pytest.mark.parametrize(
    "code",
    [
        "def eval(text): ...\neval('1')",
        "from safe import eval\ndef f():\n    return eval('1')",
        "def f(eval):\n    return eval('1')",
        "def f():\n    eval = print\n    return eval('1')",
        "[eval(1) for eval in [print]]",
        "for f in []:\n    f.eval('1')",
        "model.eval()",
        "'eval(1)'  # eval(1)",
    ],
)
def test_a_name_of_the_programs_own_is_no_builtin(code: str) -> None:
    assert "builtins.eval" not in origins(code)


def test_instances_are_marked_by_brackets() -> None:
    path = "from pathlib import Path\n"
    assert "pathlib.Path().read_text" in origins(path + "Path('a').read_text()")
    assert "pathlib.Path().read_text" in origins(path + "p = Path('a') / 'b'\np.read_text()")
    assert "pathlib.Path().read_text" in origins(path + "def f(p: Path):\n    p.read_text()")
    assert "pathlib.Path().parent.exists" in origins(path + "Path('a').parent.exists()")


def test_a_name_computed_at_run_time_shows_as_a_question_mark() -> None:
    assert "os.?" in origins("import os\ndef f(n):\n    return getattr(os, n)")
    assert "importlib.?" in origins("def f(n):\n    return __import__(n)")


@pytest.mark.parametrize(
    "code",
    [
        "def f(r: requests.Response) -> requests.Session:\n    x: requests.Response",
        "try: ...\nexcept (requests.Timeout, ValueError) as error: ...",
    ],
)
def test_annotations_and_except_clauses_use_nothing(code: str) -> None:
    assert not any("requests" in origin for origin in origins("import requests\n" + code))


def test_names_that_define_each_other_end() -> None:
    assert origins("a = b\nb = a\na") <= {"builtins.a", "builtins.b"}
    lines = [f"x{n} = x{n - 1} if x{n - 1} else x{n - 1}" for n in range(1, 200)]
    assert "builtins.eval" in origins("x0 = eval\n" + "\n".join(lines))


def test_what_is_no_python_is_the_models_fault() -> None:
    for code, kind in [
        ("def f(:", "syntax_error"),
        ("x\x00", "syntax_error"),
        ("x=1\n" * MAX_CODE_CHARS, "code_too_large"),
    ]:
        with pytest.raises(ModelFault) as caught:
            parse(code)
        assert caught.value.kind == kind


def test_deep_code_is_read_or_refused_without_a_crash() -> None:
    parse("(" * 90 + "1" + ")" * 90)
    Program(parse("x" + ".f()" * 150)).uses()
    with pytest.raises(ModelFault):
        parse("x = " + "+".join(["1"] * 50_000))


# --- programs that are written to be hard to read ----------------------------------------------

MANY = "import " + ", ".join(f"m{n} as n{n}" for n in range(220)) + "\nx = "
MANY += " or ".join(f"n{n}" for n in range(220)) + "\n"  # x has more origins than are kept


def doubled(text: str, num_levels: int) -> str:
    """A name that spells `text` four times as often as the name before it, level by level."""
    lines = [f"t{n + 1} = f'{{t{n}}}{{t{n}}}{{t{n}}}{{t{n}}}'" for n in range(num_levels)]
    return "\n".join([f"t0 = {text!r}", *lines, f"print(t{num_levels})\n"])


@pytest.mark.parametrize("text", ["", "ab", "x" * 10_000])
def test_a_text_that_multiplies_itself_is_read_once(text: str) -> None:
    [use] = [use for use in Program(parse(doubled(text, 12))).uses() if use.is_called]
    assert use.first_text == ("" if text == "" else None)


def test_a_text_that_is_too_long_to_name_anything_is_computed() -> None:
    start = "import os\n"
    assert "os.system" in origins(start + "s = 'system'\ngetattr(os, f'{s}')")
    for text in (f"'{'x' * MAX_NAME_CHARS}' 'y'", "('x' * 2).join(['a', 'b'])"):
        assert "os.?" in origins(f"{start}getattr(os, {text})")
    glued = "g = '" + "x" * 900 + "'\ngetattr(os, g.join(['system']))"
    assert "os.system" in origins(start + glued)


def test_a_text_out_of_reach_of_one_name_is_read_from_a_nearer_one() -> None:
    chain = "\n".join(f"t{n + 1} = t{n}" for n in range(60))
    code = f"import os\nt0 = 'system'\n{chain}\ngetattr(os, t60)\ngetattr(os, t20)"
    assert "os.system" in origins(code)


@pytest.mark.parametrize(
    "code",
    [
        MANY + "x\n" * 100_000,
        MANY + "y = x" + ".os" * 330 + "\n" + "y\n" * 20_000,
        MANY + "x0 = x\n" + "".join(f"x{n + 1} = x{n}.{'y' * 9_000}\n" for n in range(38)) + "x38",
        MANY + "x.a = x\nx.a = x.a.a\n" + ("x" + ".a" * 900 + "\n") * 100,
        "\n".join(f"from m{n} import *" for n in range(8_000)) + "\n" + "q\n" * 100_000,
        "from " + "a." * 100_000 + "a import b",
        "import " + "a.\\\n" * 100_000 + "a",
        "# f'\nf'" + "{a}" * 160_000 + "'",
        'f"""' + "{a}\n" * 120_000 + '"""',
    ],
    ids=[
        "uses",
        "long origins",
        "long names",
        "attributes",
        "stars",
        "dots",
        "dots over lines",
        "f-string",
        "f-string over lines",
    ],
)
def test_a_program_that_would_take_too_long_to_read_is_refused(code: str) -> None:
    with pytest.raises(ModelFault) as caught:
        Program(parse(code)).uses()
    assert caught.value.kind == "code_too_deep"


def test_a_name_declared_global_again_and_again_is_shared_once() -> None:
    code = "import os\ndef f():\n" + " global x\n" * 20_000 + " x = os\n" * 20_000
    assert "os.system" in origins(code + "x.system")


def test_large_honest_programs_are_not_refused() -> None:
    calls = "".join(
        f"def f{n}(a):\n    return os.path.join(a.b.c, f'{{a}}-{{{n}}}')\n" for n in range(5_000)
    )
    page = 'f"""' + "<td>{row.name}</td>\n" * 5_000 + '"""\n'
    assert "os.path.join" in origins("import os\n" + calls + page)
