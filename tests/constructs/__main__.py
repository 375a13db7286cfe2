"""`python -m tests.constructs [WORDS]`: proves each construct of the catalogue whose name holds WORDS, all without.

A row per case: how many blocks its program has, and how many calls, forced paths and sides of branches were equal to
eager PyTorch, as the case is and three modules deep. The exit status is 1 when anything differs.
"""
from __future__ import annotations

import sys

from tests.constructs.catalogue import CATALOGUE, Proof, cases, is_test, prove, prove_nested


def shown(proof: Proof | Exception) -> str:
    if isinstance(proof, Proof):
        return f"{proof.blocks:4} {proof.calls:5} {proof.paths:5} {proof.edges:5}"
    return f"{type(proof).__name__}: {str(proof).splitlines()[0][:60] if str(proof) else ''}"


def attempt(proving, case) -> Proof | Exception:
    try:
        return proving(case)
    except Exception as error:
        return error


def main(words: str) -> int:
    failed = 0
    known: dict[str, str] = {}
    print(f"{'':52}  {'as it is':>23}   {'three modules deep':>23}")
    print(f"{'construct, case':52}  blocks calls paths sides   blocks calls paths sides")
    for group, constructs in CATALOGUE.items():
        for construct, names in constructs.items():
            if words.lower() not in construct.lower():
                continue
            print(f"{group}: {construct}")
            for name in names:
                if is_test(name):
                    print(f"  python -m pytest {name}")
                    continue
                if name not in known:
                    results = [attempt(proving, cases()[name]) for proving in (prove, prove_nested)]
                    failed += sum(isinstance(result, Exception) for result in results)
                    known[name] = "      ".join(map(shown, results))
                print(f"  {name:50}  {known[name]}", flush=True)
    print("all equal" if not failed else f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
