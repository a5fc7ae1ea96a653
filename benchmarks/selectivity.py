"""What published conditions do where they are wanted, and where they are not, as tables.

    trimtab run recipes/french-on-food.yaml
    python benchmarks/selectivity.py HOME french-on-food cheerful-when-gloomy

Reads the catalog, computes nothing.
"""

import argparse
from collections.abc import Mapping

from trimtab.tasks.home import Home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    for name in args.names:
        header = Home.at(args.home).catalog.get(f"{name}.selectivity").header
        about = header["about"]
        rates = about["rates"]
        sides = header["contenders"][0]
        print(
            f"**{name}** ({sides['wanted']['kl']['n']} wanted, {sides['unwanted']['kl']['n']} unwanted held-out "
            f"prompts): reads `{about['gate']['site']}`, AUROC {rates['auroc']:.2f} (of the prompt's length alone "
            f"{about['length_auroc']:.2f}), opens for {shown(rates['true_positive'])} of the wanted and "
            f"{shown(rates['false_positive'])} of the unwanted\n"
        )
        print(
            "| plan | effect, wanted | effect, not wanted | KL, wanted | KL, not wanted | prompts touched, not wanted |"
        )
        print("|---|---|---|---|---|---|")
        for one in header["contenders"]:
            cells = [shown(one[side][what]) for what in ("effect", "kl") for side in ("wanted", "unwanted")]
            print(f"| {one['name']} | {' | '.join(cells)} | {one['unwanted']['touched']:.0%} |")
        print()


def shown(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


if __name__ == "__main__":
    main()
