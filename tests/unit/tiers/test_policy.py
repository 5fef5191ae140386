import pytest

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.tiers import TIERS, Delivery, tier_named

MS = 1_000_000
US = 1_000


@pytest.mark.parametrize(
    ("name", "target", "deadline", "buffer", "delivery", "port"),
    [
        ("free", 500 * MS, 2_000 * MS, 512, Delivery.BEST_EFFORT, 7400),
        ("pro", 100 * MS, 1_500 * MS, 1_280, Delivery.BEST_EFFORT, 7401),
        ("business", 50 * MS, 1_000 * MS, 1_536, Delivery.BEST_EFFORT, 7402),
        ("turbo", 10 * MS, 500 * US, 2_048, Delivery.OVERWRITE, 7403),
        ("enterprise", 5 * MS, 200 * US, 4_096, Delivery.OVERWRITE, 7404),
    ],
)
def test_a_tier_promises_what_users_were_told(name, target, deadline, buffer, delivery, port):
    policy = TIERS[name]
    assert policy.name == name
    assert policy.relay_target_ns == target
    assert policy.write_deadline_ns == deadline
    assert policy.buffer_frames == buffer
    assert policy.delivery is delivery
    assert (policy.stream_port, policy.zmq_port) == (port, port + 10)


def test_only_turbo_and_enterprise_run_memory_optimised_and_only_enterprise_multicasts():
    assert [n for n, p in TIERS.items() if p.memory_optimised] == ["turbo", "enterprise"]
    assert [n for n, p in TIERS.items() if p.multicast] == ["enterprise"]


def test_business_is_scheduled_before_free_and_pro_and_after_the_tight_tiers():
    nice = {name: policy.nice for name, policy in TIERS.items()}
    assert nice["free"] == nice["pro"] > nice["business"] > nice["turbo"] == nice["enterprise"] == 0


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("Developer", "pro"),
        ("PROFESSIONAL", "business"),
        ("professional", "business"),
        (" Turbo ", "turbo"),
        ("Enterprise", "enterprise"),
        ("free", "free"),
    ],
)
def test_a_tier_is_known_by_its_aliases_in_any_case(given, canonical):
    assert tier_named(given) is TIERS[canonical]


def test_an_unknown_tier_is_refused_with_the_names_that_exist():
    with pytest.raises(ConfigError, match=r"tier = 'gold': not one of free, pro, business"):
        tier_named("gold")


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        TIERS["free"] = TIERS["turbo"]
    with pytest.raises(AttributeError):
        TIERS["free"].buffer_frames = 1
