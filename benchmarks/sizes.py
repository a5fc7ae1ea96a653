"""How large captures are, before anything is collected: bytes per token and site, and what many tokens need.

    python benchmarks/sizes.py [--tokens 100000000] [--region 128]

The shapes are those of published configurations (Llama 3.1 8B and 70B) and of the embedded model; two bytes a number.
"""

import argparse
from dataclasses import dataclass

from trimtab.store.captures.schema import REGION_BYTES, ArraySpec, chunk_rows

INDEX_BYTES = 10  # token id, position, role, special


@dataclass(frozen=True)
class Shape:
    """A model's sizes."""

    name: str
    blocks: int
    d_model: int
    heads: int
    d_head: int
    d_mlp: int

    def specs(self, which: str) -> list[ArraySpec]:
        """What `which` collects."""
        blocks = [self.blocks // 2] if "middle" in which else range(self.blocks)
        wide = {"resid_post": (self.d_model,), "z": (self.heads, self.d_head), "mlp_post": (self.d_mlp,)}
        points = [point for point in wide if point in which]
        return [ArraySpec.of(f"{point}.{block}", wide[point], "bfloat16") for point in points for block in blocks]


SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 9, 64, 1536),
    Shape("8B", 32, 4096, 32, 128, 14336),
    Shape("70B", 80, 8192, 64, 128, 28672),
)
ASKED = (
    "resid_post, middle block",
    "resid_post, every block",
    "resid_post and z, every block",
    "mlp_post, every block",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="sizes of captures")
    parser.add_argument("--tokens", type=int, default=100_000_000, help="tokens collected (100 million)")
    parser.add_argument("--region", type=int, default=REGION_BYTES >> 20, help="MiB of a region (128)")
    args = parser.parse_args()
    tokens = args.tokens
    print(f"| model | collected | sites | bytes a token | {tokens / 1e6:g}M tokens | rows a region | regions |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for asked in ASKED:
            print(line(shape, asked, tokens, args.region << 20))


def line(shape: Shape, asked: str, tokens: int, region: int) -> str:
    """One row of the table."""
    specs = shape.specs(asked)
    row = sum(spec.row_bytes for spec in specs)
    rows = max(1, region // row)
    shared = max(chunk_rows(spec, tokens, rows) / rows for spec in specs)
    total = tokens * (row + INDEX_BYTES)
    return (
        f"| {shape.name} | {asked} | {len(specs)} | {row:,} | {total / 1e12:.2f} TB "
        f"(written: {(total + shared * tokens * row) / 1e12:.2f}) | {rows:,} | {-(-tokens // rows):,} |"
    )


if __name__ == "__main__":
    main()
