"""The metrics page, read as Prometheus reads it."""

import re
import urllib.request

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def scrape(server):
    """Return {(family, frozenset of labels): value} of a server's metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60) as reply:
        page = reply.read().decode()
    samples = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, labels, value = SAMPLE.match(line).groups()
            samples[name, frozenset(LABEL.findall(labels or ""))] = float(value)
    return samples


def value_of(samples, family, **labels):
    """Return the one sample of a family that has these labels; None where there is none."""
    wanted = {(name, str(value)) for name, value in labels.items()}
    found = [value for (name, has), value in samples.items() if name == family and wanted <= has]
    assert len(found) <= 1, f"{len(found)} samples of {family} with {labels}"
    return found[0] if found else None
