"""An archive under a URL: its chains and bases, found and changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from connectors.archive import manifest, segment
from connectors.archive.manifest import Base, Chain, Identity, Segment
from connectors.archive.store import Store, store_of
from connectors.errors import ArchiveDamaged, ArchiveForeign, ArchiveRefused
from connectors.positions import Partition


class Archive:
    """One archive. A chain says what is kept of a partition; a segment that is not in it yet is taken in by `chain`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def at(cls, url: str) -> Archive:
        """The archive under a URL. Raises SettingsInvalid."""
        return cls(store_of(url))

    # -- whose it is ---------------------------------------------------------------------------------------------
    def identity(self) -> Identity | None:
        """The pipeline that it is of; None where nothing is there yet."""
        data = self.store.read(manifest.ROOT)
        return None if data is None else manifest.identity(data)

    def claim(self, mine: Identity) -> None:
        """Make it this pipeline's. Raises ArchiveForeign where it is another's."""
        known = self.identity()
        if known is None:
            if left := self.store.names("topics"):
                raise ArchiveRefused(
                    f"the archive {self.store.place} has files and does not say what it is of",
                    remedy=f"bring {manifest.ROOT} back, or name an empty place in archive.url",
                    found=left[0],
                )
            self.store.write(manifest.ROOT, manifest.as_bytes("archive", mine))
        elif known != mine:
            raise ArchiveForeign(
                f"the archive {self.store.place} is of another pipeline: {known.prefix}, from {known.database} of the"
                f" server {known.system}",
                remedy="name another place in archive.url; this one is left as it is",
            )

    def demand(self) -> Identity:
        """The pipeline that it is of. Raises ArchiveRefused where there is no archive."""
        known = self.identity()
        if known is None:
            raise ArchiveRefused(
                f"there is no archive in {self.store.place}",
                remedy="correct archive.url, or run `tandem archive run`",
            )
        return known

    # -- chains --------------------------------------------------------------------------------------------------
    def partitions(self) -> list[Partition]:
        """Those that it has something of, in order."""
        found = []
        for name in self.store.names("topics"):
            parts = name.split("/")
            if len(parts) == 4 and parts[3] == "chain.json" and parts[2].isdigit():
                found.append(Partition(parts[1], int(parts[2])))
        return sorted(found)

    def known_chain(self, home: Partition) -> Chain | None:
        """A partition's chain as its manifest has it. Raises ArchiveDamaged, ArchiveRefused."""
        name = manifest.chain_name(home)
        data = self.store.read(name)
        return None if data is None else manifest.chain(data, name)

    def chain(self, home: Partition) -> Chain | None:
        """The same, with what its process had no time to write down; what is left of its removals goes. For the one
        that writes."""
        chain = self.known_chain(home)
        if chain is None:
            return None
        folder = manifest.chain_name(home).rpartition("/")[0]
        there = {name for name in self.store.names(folder) if name.endswith(".avro")}
        while (name := manifest.segment_name(home, chain.next)) in there:
            there.discard(name)
            try:
                with self.store.open(name) as file:
                    chain = chain.and_(segment.adopted(file, home, chain.next, name))
            except (
                ArchiveDamaged
            ):  # a store whose files are not whole at once; Kafka still has what was in it
                self.store.remove(name)
                break
            self.save(chain)
        for name in sorted(there - {manifest.segment_name(home, s.start) for s in chain.segments}):
            if name < manifest.segment_name(home, chain.start):
                self.store.remove(name)
        return chain

    def save(self, chain: Chain) -> None:
        """Write a chain down."""
        self.store.write(manifest.chain_name(chain.home), manifest.as_bytes("chain", chain))

    def remove(self, chain: Chain, gone: Iterable[Segment]) -> None:
        """Remove files that the chain, which is written down, has no more."""
        for one in gone:
            self.store.remove(manifest.segment_name(chain.home, one.start))

    # -- bases ---------------------------------------------------------------------------------------------------
    def bases(self) -> list[Base]:
        """Whole ones, the oldest first."""
        names = [n for n in self.store.names("bases") if n.count("/") == 2 and n.endswith("/base.json")]
        return sorted(self._bases(names), key=lambda base: (base.lsn, base.began))

    def _bases(self, names: Iterable[str]) -> Iterator[Base]:
        for name in names:
            if (data := self.store.read(name)) is not None:
                yield manifest.base(data, name)

    def save_base(self, base: Base) -> None:
        """Write down that a base is whole: its files are there."""
        self.store.write(manifest.base_name(base.name), manifest.as_bytes("base", base))

    def remove_base(self, name: str) -> None:
        """Its manifest first: what is left of it is nothing."""
        self.store.remove(manifest.base_name(name))
        for file in self.store.names(f"bases/{name}"):
            self.store.remove(file)

    def partial_bases(self) -> list[str]:
        """Names of bases that did not come to their end."""
        found = {n.split("/")[1] for n in self.store.names("bases") if n.count("/") == 2}
        whole = {n.split("/")[1] for n in self.store.names("bases") if n.endswith("/base.json")}
        return sorted(found - whole)
