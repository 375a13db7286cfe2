"""The errors that loading or calling a bundle can raise.

In: what was given, what was expected and what to do about it.
Out: exceptions, all of them `ElasticRuntimeError`, whose parts stay readable as attributes.
Never: holds on to tensors, files or engine objects.
"""
from __future__ import annotations


def shorten(value: object, limit: int = 120) -> str:
    """`value` as text for a message: one line, printable, at most `limit` characters."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]


class ElasticRuntimeError(Exception):
    """Base of every error that the runtime raises on purpose."""


class _Told(ElasticRuntimeError):
    """An error with a subject, a rule (a stable slug) and the three things a reader needs."""

    def __init__(self, subject: str, rule: str, given: object, expected: object, hint: str = "") -> None:
        self.subject, self.rule, self.hint = shorten(subject, 200), rule, hint
        self.given, self.expected = shorten(given), shorten(expected)
        super().__init__(subject, rule, given, expected, hint)

    def __str__(self) -> str:
        text = f"{self.subject}: {self.rule}: given {self.given}, expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class BundleError(_Told):
    """A bundle breaks a rule of the loader. `file` is the file's name in the bundle, `rule` a stable slug."""

    def __init__(self, file: str, rule: str, given: object, expected: object,
                 hint: str = "The bundle is damaged or was not written by elastic-compile: write it again.") -> None:
        super().__init__(file, rule, given, expected, hint)

    @property
    def file(self) -> str:
        return self.subject


class VersionError(BundleError):
    """The bundle's schema is not the one this runtime reads."""


class ProgramError(_Told):
    """A program is not well formed. `where` names the place, such as "blocks[2].steps[0]"."""

    def __init__(self, where: str, rule: str, given: object, expected: object) -> None:
        super().__init__(where, rule, given, expected)

    @property
    def where(self) -> str:
        return self.subject


class NativeCodeRefused(ElasticRuntimeError):
    """The bundle holds native code and the caller did not opt in."""

    def __init__(self, engine: str, region: str) -> None:
        self.engine, self.region = shorten(engine), shorten(region)
        super().__init__(engine, region)

    def __str__(self) -> str:
        return (f"region {self.region}: engine {self.engine} runs native code taken from the bundle, and "
                "allow_native is False. If you trust whoever made this bundle, load it with allow_native=True "
                "(elastic-run: --allow-native)")


class EngineMissing(ElasticRuntimeError):
    """No installed engine has the name that the bundle asks for, or its package does not import."""

    def __init__(self, engine: str, known: tuple[str, ...] = (), reason: str = "", hint: str = "") -> None:
        self.engine, self.known, self.reason, self.hint = shorten(engine), known, reason, hint
        super().__init__(engine, known, reason, hint)

    def __str__(self) -> str:
        why = self.reason or f"no such engine among {', '.join(self.known) or 'those installed'}"
        hint = self.hint or "Install the package that provides it (entry-point group elastic_runtime.engines)"
        return f"engine {self.engine} cannot be used: {why}. {hint}"


class InputError(_Told, ValueError):
    """A call's arguments do not fit the program. `path` names the argument, such as "x['mask'][1]"."""

    def __init__(self, path: str, rule: str, given: object, expected: object, hint: str = "") -> None:
        super().__init__(path, rule, given, expected, hint)

    @property
    def path(self) -> str:
        return self.subject


class HostOpMissing(ElasticRuntimeError):
    """The program calls functions that the embedding application did not provide."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = tuple(shorten(name) for name in names)
        super().__init__(names)

    def __str__(self) -> str:
        return (f"the program calls host functions that were not provided: {', '.join(self.names)}. "
                "Give them to load(path, host_ops={name: function})")


class ExecutionError(_Told, RuntimeError):
    """A region, a host function or a value made by one does not keep to the program's declared types."""


class ModelRaised(ElasticRuntimeError, RuntimeError):
    """The model itself raised: `type` is the exception's type name, `message` its text."""

    def __init__(self, type: str, message: str) -> None:
        self.type, self.message = type, message
        super().__init__(type, message)

    def __str__(self) -> str:
        return f"the model raised {self.type}: {self.message}"


class SwitchRefused(ElasticRuntimeError, RuntimeError):
    """A switch to a subnet that cannot go on from where the active one is. `lacking`: what it needs and has not."""

    def __init__(self, active: str, wanted: str, lacking: tuple[str, ...], reason: str = "") -> None:
        self.active, self.wanted = active, wanted
        self.lacking = tuple(shorten(item) for item in lacking)
        self.reason = reason
        super().__init__(active, wanted, lacking, reason)

    def __str__(self) -> str:
        why = self.reason or (f"{self.wanted} needs {', '.join(self.lacking[:5])}" if self.lacking else
                              f"{self.wanted} was not compiled for the state that the calls so far left")
        hint = "" if self.reason else ". Call reset() to start from the first state, or switch before the first call"
        return f"cannot switch from {self.active} to {self.wanted}: {why}{hint}"


class LimitExceeded(ElasticRuntimeError, RuntimeError):
    """A call was ended because it took more blocks than `Limits.max_steps`."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        super().__init__(steps)

    def __str__(self) -> str:
        return (f"the call was ended after {self.steps} basic blocks. If its loops really take that many, load "
                "the bundle with limits=Limits(max_steps=...) set higher")


class DeadlineExceeded(ElasticRuntimeError, TimeoutError):
    """A call ran longer than the model's `deadline_s`."""

    def __init__(self, deadline_s: float, elapsed_s: float) -> None:
        self.deadline_s, self.elapsed_s = deadline_s, elapsed_s
        super().__init__(deadline_s, elapsed_s)

    def __str__(self) -> str:
        return (f"the call was ended between two regions after {self.elapsed_s * 1e3:.3f} ms; its deadline is "
                f"{self.deadline_s * 1e3:.3f} ms. Set model.deadline_s higher, or to None for no deadline")


class BudgetExceeded(ElasticRuntimeError, RuntimeError):
    """A call was ended because it would have run more regions than its budget allows."""

    def __init__(self, regions: int) -> None:
        self.regions = regions
        super().__init__(regions)

    def __str__(self) -> str:
        return (f"the call was ended between two regions: it ran {self.regions}, all that its budget allows. Set "
                "model.max_regions higher, or compile with another budget")


class SelfTestFailed(ElasticRuntimeError):
    """A reference call did not give the recorded result. `call` is its number, `leaf` the place in the output."""

    def __init__(self, call: int, leaf: str, given: object, expected: object) -> None:
        self.call, self.leaf = call, leaf
        self.given, self.expected = shorten(given), shorten(expected)
        super().__init__(call, leaf, given, expected)

    def __str__(self) -> str:
        return (f"reference call {self.call}: {self.leaf} is {self.given}, expected {self.expected}. "
                "The bundle does not compute on this machine what it computed where it was made: compile it again "
                "with the engine versions installed here")


class NoSubnetFits(ElasticRuntimeError):
    """No subnet keeps what `select` was asked for. `wish`: that; `nearest`: the fastest one that may be taken."""

    def __init__(self, wish: object, nearest: str, reason: str) -> None:
        self.wish, self.nearest, self.reason = wish, nearest, reason
        super().__init__(wish, nearest, reason)

    def __str__(self) -> str:
        return (f"no subnet keeps {shorten(self.wish)}: {self.reason} on this device now. Ask for less, or switch to "
                f"{shorten(self.nearest)} all the same")
