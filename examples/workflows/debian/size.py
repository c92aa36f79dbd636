"""What packages install, from their records."""


def total(records):
    sections = {}
    for record in records:
        sections[record["section"]] = sections.get(record["section"], 0) + record["installed_kib"]
    return {
        "packages": len(records),
        "installed_kib": sum(sections.values()),
        "largest_section": max(sections, key=lambda s: (sections[s], s), default=None),
    }
