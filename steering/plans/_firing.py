"""Whether every intervention acted in every forward pass of a session: a hook that does not fire steers nothing, and
nothing else would show it."""

from collections.abc import Sequence

from trimtab.steering.errors import SilentNoOp
from trimtab.steering.plans.intervention import Intervention

UNSEEN = (
    "{} forward passes of the model were not seen at its blocks, so nothing was steered: it was compiled before the "
    "plan was attached, and what was compiled ignores hooks. Call torch.compiler.reset() before the block, or attach "
    "first and compile inside; a `forward` that was replaced must run the model's blocks"
)


class Firing:
    """forwards: passes that began. Of those that ran to their end it is counted in how many each hook ran; a pass that
    a reader cut short had no turn for later blocks, so it does not count. Threads share it: tell it under a lock."""

    def __init__(self, steps: Sequence[Intervention]):
        self._steps = steps
        self._complete, self._fired, self._unseen = 0, [0] * len(steps), 0
        self.forwards = 0

    def began(self) -> None:
        """A pass began at the base model."""
        self.forwards += 1

    def completed(self, fired: Sequence[int]) -> None:
        """A pass ran to its end; these interventions' hooks ran in it."""
        self._complete += 1
        for number in fired:
            self._fired[number] += 1

    def unseen(self) -> None:
        """The model returned without having run its base model's hooks. Raises SilentNoOp."""
        self._unseen += 1
        raise SilentNoOp(UNSEEN.format(self._unseen))

    def check(self) -> None:
        """Raises SilentNoOp when a pass was not seen, or a hook did not fire in every complete one."""
        if self._unseen:
            raise SilentNoOp(UNSEEN.format(self._unseen))
        for step, count in zip(self._steps, self._fired, strict=True):
            if count != self._complete:
                raise SilentNoOp(
                    f"{step.site} was steered in {count} of {self._complete} forward passes: the model was compiled "
                    f"before the plan was attached, or it skips that module; attach first, then compile"
                )
