"""Every Redis key of ours, built in this one place. RQ's own keys begin with `rq:`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str

    @property
    def cluster(self) -> str:
        """String: UID of the cluster this data is about."""
        return f"{self.prefix}:cluster"

    @property
    def inventory(self) -> str:
        """Hash: EIP UID → EIP as JSON."""
        return f"{self.prefix}:inventory"

    @property
    def tombstones(self) -> str:
        """Sorted set: UID of a released EIP, by the time of its release."""
        return f"{self.prefix}:tombstones"

    @property
    def checkpoint(self) -> str:
        """Hash: `resource_version` up to which everything is committed, `at`."""
        return f"{self.prefix}:checkpoint"

    @property
    def gap(self) -> str:
        """String: resourceVersion of the list that stood in for missed events; absent once gateways are audited."""
        return f"{self.prefix}:gap"

    @property
    def audited(self) -> str:
        """String: when all gateways were audited last; absent once that is due again."""
        return f"{self.prefix}:audited"

    @property
    def reports(self) -> str:
        """Hash: gateway → what its last audit saw, as JSON."""
        return f"{self.prefix}:reports"

    @property
    def producers(self) -> str:
        """Hash: producer id → JSON with its last commit: `mark`, `at`, `resource_version`, and how it fared."""
        return f"{self.prefix}:producers"

    @property
    def vouched(self) -> str:
        """String: the server's reign in which a producer has vouched for the inventory (`shared.vouching`)."""
        return f"{self.prefix}:vouched"

    @property
    def unvouched(self) -> str:
        """String: since when producers have met a reign that none has vouched in; absent once one has."""
        return f"{self.prefix}:unvouched"

    @property
    def following(self) -> str:
        """Sorted set: producer id → until when its word holds that it follows the API, by the server's clock."""
        return f"{self.prefix}:following"

    @property
    def brake(self) -> str:
        """String: JSON saying why the brake is engaged; absent when it is not."""
        return f"{self.prefix}:brake"

    @property
    def brake_held(self) -> str:
        """Set: UIDs whose release the brake holds back."""
        return f"{self.prefix}:brake:held"

    @property
    def brake_confirmed(self) -> str:
        """Set: UIDs whose release an operator confirmed."""
        return f"{self.prefix}:brake:confirmed"

    @property
    def pending_gateways(self) -> str:
        """Set: gateways that have pending work."""
        return f"{self.prefix}:pending"

    def owners(self, gateway: str, address: str) -> str:
        """Set: UIDs of the known EIPs that own the pair."""
        return f"{self.prefix}:owners:{gateway}:{address}"

    def pending(self, gateway: str) -> str:
        """Hash: work id → work as JSON, for whoever holds the gateway's lock."""
        return f"{self.prefix}:pending:{gateway}"

    def pending_generation(self, gateway: str) -> str:
        """Counter: raised with every addition to the gateway's pending work."""
        return f"{self.prefix}:generation:{gateway}"

    def lock(self, gateway: str) -> str:
        """String: token of the worker that holds the gateway."""
        return f"{self.prefix}:lock:{gateway}"

    def taken(self, gateway: str) -> str:
        """String: there for a moment after a job of the gateway was taken, until its worker has asked for the lock.

        One that was waited for is taken with the lock (`workers.opening`).
        """
        return f"{self.prefix}:taken:{gateway}"

    def hold(self, gateway: str) -> str:
        """String: since when the gateway's releases wait for an EIP without address."""
        return f"{self.prefix}:hold:{gateway}"

    def intent(self, gateway: str, address: str) -> str:
        """String: JSON about the worker that means to take the address away, or has."""
        return f"{self.prefix}:intent:{gateway}:{address}"

    def record(self, work_id: str) -> str:
        """Hash: what is known of one piece of work; `payload`, `outcome` once it has one, …."""
        return f"{self.prefix}:record:{work_id}"

    def trace(self, work_id: str) -> str:
        """List: JSON lines, the life of one piece of work."""
        return f"{self.prefix}:trace:{work_id}"

    def index(self, term: str) -> str:
        """Sorted set: work ids by when they are forgotten, for an EIP's name, UID or address."""
        return f"{self.prefix}:index:{term}"

    def outcomes(self, hour: int) -> str:
        """Hash: outcome → how many pieces of work ended so in that hour, counted since the epoch."""
        return f"{self.prefix}:outcomes:{hour}"
