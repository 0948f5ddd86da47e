"""All targets by name, in the order in which a campaign runs them."""

from tests.fuzz import targets_config, targets_node, targets_wire
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*targets_node.TARGETS, *targets_wire.TARGETS, *targets_config.TARGETS)
}
