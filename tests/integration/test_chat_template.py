# SPDX-License-Identifier: Apache-2.0
"""Chat templates against jinja2, set up as transformers does: the same text, or both refuse.

    test_chat_template.py CHAT_RENDER [DIRECTORY]

Conversations of every kind through every template of tests/data/chat (or of DIRECTORY), and then
random small templates from the grammar that Medley has (MEDLEY_TEST_SEED sets the seed, CASES how
many).  What Medley refuses although jinja2 does not must be one of the things that the documentation
says it refuses.
"""
import datetime
import functools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

UNIX_S = 1735689599  # the last second of 2024, UTC

# What is refused by design, in a sentence of the program's own.
REFUSED = re.compile(
    r"is not supported|is a method that is not called|does not fit 64 bits|cannot be printed|"
    r"nested more than|beyond ASCII|more than \d+ steps|cannot be the key of a dict|a slice of .* is not defined")


def dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = dumps
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.fromtimestamp(UNIX_S).strftime(format)
    return env


class Generation(jinja2.ext.Extension):
    """{% generation %} marks text and changes nothing."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("same"), [], [], body).set_lineno(line)

    def same(self, caller):
        return caller()


class Medley:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, case):
        self.process.stdin.write(json.dumps(case, ensure_ascii=False).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the program died on {json.dumps(case)}")
        answer = json.loads(line)
        return answer["code"], answer["text"]

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


@functools.lru_cache(maxsize=64)
def compiled(env, template):
    return env.from_string(template)


def with_jinja(env, case):
    """(None, text) or (the error, None)."""
    variables = {name: case[name] for name in ("bos_token", "eos_token") if name in case}
    try:
        text = compiled(env, case["template"]).render(
            messages=case["messages"], tools=None, documents=None,
            add_generation_prompt=case["add_generation_prompt"], **variables)
        return None, text
    except RecursionError as error:
        return error, None
    except Exception as error:  # whatever a template can do wrong, in any of Python's ways
        return error, None


def compare(medley, case, name, error, want):
    """None if they agree, "refused" if Medley says that it does not have this; else the report."""
    code, got = medley.render(case)
    if error is None and code == "ok" and got == want:
        return None
    if error is not None and code != "ok":
        own_words = isinstance(error, jinja2.exceptions.TemplateError) and type(error) is jinja2.exceptions.TemplateError
        if not own_words or str(error) in got or REFUSED.search(got):
            return None
    if error is None and code != "ok" and REFUSED.search(got):
        return "refused"
    return (f"{name}: {json.dumps(case, ensure_ascii=False)}\n  jinja2 {error!r} {want!r}\n"
            f"  medley {code} {got!r}")


# ---- conversations ----

CONTENTS = [
    "Hello", "", " \n padded \t\n", "Grüße, 世界 🎉\u2028\u00a0", "two\nlines\r\n", "<|im_end|></s>[/INST]<|eot_id|>",
    "<think>\nhm\n</think>\n\nYes.", "</think>", "a</think>b</think>c", "<tool_response>x</tool_response>",
    "{{ bos_token }}{% if %}", "\"quoted\" 'single' \\ back", "\x01\x1f\x7f", "\u3000wide\u3000", "é",
]


def conversations(rng):
    def turns(*roles):
        return [{"role": role, "content": rng.choice(CONTENTS)} for role in roles]
    shapes = [
        [], ["user"], ["system"], ["assistant"], ["system", "user"], ["user", "assistant"],
        ["user", "assistant", "user"], ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user", "assistant"], ["user", "user"], ["system", "system", "user"],
        ["assistant", "user"], ["user", "system", "user"], ["user", "tool"], ["user", "assistant", "tool", "tool"],
        ["user", "stranger"], ["user", "assistant"] * 20 + ["user"], ["system"] + ["user", "assistant"] * 9,
    ]
    for shape in shapes:
        for _ in range(4):
            yield turns(*shape)
    for content in CONTENTS:
        yield [{"role": "user", "content": content}]
        yield [{"role": "system", "content": content}, {"role": "user", "content": content},
               {"role": "assistant", "content": content}, {"role": "user", "content": "and?"}]


def golden_cases(directory, rng):
    for path in sorted(pathlib.Path(directory).glob("*.jinja")):
        text = path.read_bytes().decode()
        for messages in conversations(rng):
            for prompt in (False, True):
                yield path.name, {
                    "template": text, "messages": messages, "add_generation_prompt": prompt, "unix_s": UNIX_S,
                    "bos_token": "<s>", "eos_token": "</s>"}
        yield path.name, {"template": text, "messages": [{"role": "user", "content": "no tokens"}],
                          "add_generation_prompt": True, "unix_s": UNIX_S}


# ---- random templates ----

class Writer:
    """Random templates from the grammar; most of them make sense, some do not."""
    NAMES = ["messages", "x", "y", "ns", "bos_token", "nothing", "turn", "tools", "loop", "add_generation_prompt"]
    STRINGS = ["''", "'a'", "\"b c\"", "'user'", "' x\\n'", "'\\t\\x41\\u00e9\\\\'", "'a,b,,c'", "'Hello World'", "'é'", "'}}'",
               "'role'", "'content'", "'ab' 'cd'"]
    NUMBERS = ["0", "1", "2", "3", "-1", "10", "7", "1.5", "2.0", "1e3", "0.1", "1_000", "0x1F", "1e22", "1.0e-7"]
    CONSTANTS = ["true", "false", "none", "True", "None"]
    FILTERS = ["trim", "upper", "lower", "length", "first", "last", "list", "tojson", "string", "int", "title", "capitalize",
               "join(',')", "join", "default('d')", "default('d', true)", "replace('a', 'bb')", "reverse", "reverse|list",
               "map('upper')|list", "map(attribute='role')|list", "selectattr('role')|list", "abs", "float", "items|list",
               "selectattr('role', 'equalto', 'user')|list", "rejectattr('role', 'eq', 'user')|list", "select|list",
               "reject('none')|list", "select('string')|list", "tojson(indent=2)", "tojson(separators=(',', ':'))",
               "trim('a')", "count", "d", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)", "replace('', '-')",
               "replace('l', 'L', 1)", "map('length')|list", "join('/', attribute='content')", "select('odd')|list"]
    TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean",
             "true", "false", "odd", "even", "divisibleby 2", "divisibleby(3)", "equalto 1", "eq('a')", "in [1, 'a']",
             "in('abc')", "ne none", "gt 1", "lt(2)"]
    METHODS = ["strip()", "lstrip()", "rstrip()", "split()", "split(',')", "split('a', 1)", "rsplit(' ', 1)", "upper()",
               "lower()", "title()", "capitalize()", "startswith('a')", "endswith(('b', 'd'))", "replace('a', 'x')",
               "find('b')", "rfind('l')", "splitlines()", "splitlines(true)", "count('l')", "join(['p', 'q'])", "get('role')",
               "get('zz', 1)", "items()|list", "keys()|list", "values()|list", "strip('a ')", "removeprefix('a')",
               "removesuffix('c')", "split('é')", "rstrip('\\n')", "split(none, 1)", "replace('', '.', 2)"]
    OPS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "**"]

    def __init__(self, rng):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)()

    def atom(self):
        rng = self.rng
        return self.pick(lambda: rng.choice(self.NAMES), lambda: rng.choice(self.STRINGS), lambda: rng.choice(self.NUMBERS),
                         lambda: rng.choice(self.CONSTANTS), lambda: "messages", lambda: "messages[0]",
                         lambda: "messages[-1].content", lambda: "ns.v", lambda: "loop.index0", lambda: "[3, 1, 2]",
                         lambda: "['a', 'b']", lambda: "{'k': 1, 'j': 'v'}", lambda: "('t', 2)", lambda: "range(4)")

    def slice(self, depth):
        part = lambda: self.rng.choice(["", "0", "1", "-1", "2", "-2", "9"])
        return f"[{part()}:{part()}]" if self.rng.random() < 0.5 else f"[{part()}:{part()}:{self.rng.choice(['', '-1', '2', '-2'])}]"

    def expr(self, depth):
        if depth <= 0:
            return self.atom()
        rng, e = self.rng, lambda: self.expr(depth - 1)
        return self.pick(
            self.atom,
            lambda: f"{e()} {rng.choice(self.OPS)} {e()}",
            lambda: f"({e()} {rng.choice(self.OPS)} {e()})",
            lambda: f"{e()}|{rng.choice(self.FILTERS)}",
            lambda: f"({e()})|{rng.choice(self.FILTERS)}",
            lambda: f"{e()} is {rng.choice(['', 'not '])}{rng.choice(self.TESTS)}",
            lambda: f"({e()}).{rng.choice(self.METHODS)}",
            lambda: f"{rng.choice(self.STRINGS)}.{rng.choice(self.METHODS)}",
            lambda: f"({e()}){self.slice(depth)}",
            lambda: f"{self.atom()}[{e()}]",
            lambda: f"({e()}).{rng.choice(['role', 'content', 'v', 'first', 'zz'])}",
            lambda: f"({e()} if {e()} else {e()})",
            lambda: f"{e()} if {e()}",
            lambda: f"not {e()}", lambda: f"-{e()}",
            lambda: f"[{e()}, {e()}]", lambda: f"{{'k': {e()}, 'm': {e()}}}",
            lambda: f"{e()} {rng.choice(['<', '==', '<='])} {e()} {rng.choice(['<', '!='])} {e()}")

    def tag(self, inside):
        left = self.rng.choice(["", "", "-", "+"])
        right = self.rng.choice(["", "", "-", "+"])
        return "{%" + left + " " + inside + " " + right + "%}"

    def text(self):
        return self.rng.choice(["", "text", "\n", " \n  ", "  ", "\t", "a\n\n b", " } { ", "é\u00a0\n", "\r\n", "}}", "{"])

    def body(self, depth):
        return "".join(self.text() + self.statement(depth) for _ in range(self.rng.randint(1, 3))) + self.text()

    def statement(self, depth):
        rng, e = self.rng, lambda: self.expr(rng.randint(0, 2))
        out = lambda: "{{" + rng.choice(["", "-"]) + " " + self.expr(rng.randint(0, 3)) + " " + rng.choice(["", "-"]) + "}}"
        if depth <= 0:
            return out()
        b, t = lambda: self.body(depth - 1), self.tag
        return self.pick(
            out, out,
            lambda: t(f"if {e()}") + b() + t("endif"),
            lambda: t(f"if {e()}") + b() + t(f"elif {e()}") + b() + t("else") + b() + t("endif"),
            lambda: t("for turn in messages") + b() + t("endfor"),
            lambda: t(f"for x in {e()}") + b() + t("endfor"),
            lambda: t(f"for x in {e()}") + b() + t("else") + b() + t("endfor"),
            lambda: t("for x in [1, 2, 3, 4] if x is even") + b() + t("endfor"),
            lambda: t("for turn in messages if turn.role == 'user'") + b() + t("endfor"),
            lambda: t("for x, y in {'p': 1, 'q': 'w'}.items()") + b() + t("endfor"),
            lambda: t("for x in range(3)") + t(f"if {e()}") + t(rng.choice(["break", "continue"])) + t("endif") + b() + t("endfor"),
            lambda: t(f"set x = {e()}"), lambda: t(f"set y = {e()}"),
            lambda: t("set ns = namespace(v=0)") + b() + t(f"set ns.v = {e()}"),
            lambda: t("set ns.v = ns.v + 1"),
            lambda: t("set x, y = 1, 'two'"),
            lambda: t("set x") + b() + t("endset"),
            lambda: t("set x | trim | upper") + b() + t("endset"),
            lambda: t("macro f(x, y='dy')") + b() + t("endmacro") + "{{ f(" + e() + ") }}",
            lambda: t("generation") + b() + t("endgeneration"),
            lambda: rng.choice(["{# c #}", "{#- c -#}", "{# c +#}\n", "  {#+ {{ x }} #}\n"]),
            lambda: "{{ loop.index }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex0 }}")


def fuzz_cases(rng, count):
    writer = Writer(rng)
    for _ in range(count):
        roles = rng.choice([[], ["user"], ["system", "user", "assistant"], ["user", "assistant"]])
        case = {
            "template": writer.body(rng.randint(0, 3)),
            "messages": [{"role": role, "content": rng.choice(["Hello", "a b", "", "é ", "x\ny"])} for role in roles],
            "add_generation_prompt": rng.random() < 0.5, "unix_s": UNIX_S}
        if rng.random() < 0.8:
            case["bos_token"] = "<s>"
        yield "random", case


def main():
    seed = int(os.environ.get("MEDLEY_TEST_SEED") or 20240917)
    count = int(os.environ.get("CASES") or 4000)
    rng = random.Random(seed)
    data = sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parents[1] / "data" / "chat"
    warnings.simplefilter("ignore", SyntaxWarning)  # of the Python that jinja2 makes
    env = environment()
    medley = Medley(sys.argv[1])
    failures = 0
    for what, cases in (("conversations", golden_cases(data, rng)), ("random templates", fuzz_cases(rng, count))):
        done = refused = rendered = 0
        for name, case in cases:
            error, want = with_jinja(env, case)
            report = compare(medley, case, name, error, want)
            done += 1
            rendered += error is None
            if report == "refused" and what == "random templates":
                refused += 1
            elif report:
                failures += 1
                if failures <= int(os.environ.get("SHOW") or 10):
                    print(report)
        print(f"{what}: {done} cases, {rendered} that jinja2 renders, {refused} that only Medley refuses")
        if rendered < done // 10 or refused > rendered // 5:
            print(f"{what}: too few cases are compared")
            failures += 1
    if medley.close() != 0:
        failures += 1
    print(f"seed {seed}: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
