"""The results as one table in Markdown, each figure beside the most that the GPU could do."""

import ceiling


def limits(run):
    """Return the GPU's rates and where they are from."""
    if run.is_small:
        return None
    return ceiling.limits(run.found.get("machine", {}).get("gpu", ""), run.found.get("doctor", {}))


def number(value):
    """Return a rate as text."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def is_plain(line):
    """Whether a measurement is of the usual way to run: one lane, two batches in flight, products timed."""
    return line["lanes"] == 1 and line["flight"] == 2 and line["tuning"] == "timed" and line["graphs"]


class Table:
    """Rows with the share of the ceiling, and PyTorch's figure where there is one."""

    def __init__(self, run):
        self.run, self.limits, self.rows = run, limits(run), []

    def add(self, what, model, tokens, value, note="", rival=None):
        """Add texts per second."""
        most = ceiling.items_per_second(model, tokens, *self.limits[:2]) if self.limits and model in ceiling.SHAPES else None
        share = f"{100 * value / most:.0f} %" if most else "-"
        torch = f"{number(rival)} ({value / rival:.2f}x)" if rival else "-"
        self.rows.append([what, model, str(tokens), number(value), number(most) if most else "-", share, torch, note])
        self.run.found.setdefault("table", []).append({
            "what": what, "model": model, "tokens": tokens, "texts_per_s": value, "ceiling": most, "torch": rival, "note": note,
        })


def rival(run, model, tokens):
    """Return the best that PyTorch did."""
    rates = [line["items_per_s"] for line in run.found.get("torch", [])
             if (line["model"], line["tokens"]) == (model, tokens) and "items_per_s" in line]
    return max(rates, default=None)


def device_rows(run, table):
    """Add the best batch of each size, in each precision."""
    best = {}
    for line in filter(is_plain, run.found.get("device", [])):
        key = (line["model"], line["tokens"], line["precision"])
        if key not in best or line["items_per_s"] > best[key]["items_per_s"]:
            best[key] = line
    for (model, tokens, precision), line in best.items():
        note = f"batch of {line['items']}, {line['batch_ms']:.2f} ms"
        table.add(f"device, {precision}", model, tokens, line["items_per_s"], note, rival(run, model, tokens))


def served_rows(run, table):
    """Add what the server did, and the transport alone."""
    for line in run.found.get("served", []):
        is_model = line["model"] != "identity"
        what = f"{'served' if is_model else 'transport'}, {line['rows']} a request"
        p99 = f"{line['p99_ms']:.1f}" if line["p99_ms"] is not None else "-"
        p50 = f"{line['p50_ms']:.1f}" if line["p50_ms"] is not None else "-"
        note = f"{line['flight']} in flight, p50 {p50} ms, p99 {p99} ms"
        table.add(what, line["model"], line["tokens"], line["rows_per_s"], note)


def variants(run):
    """Return lines about other ways to run the same batches."""
    text = []
    for line in run.found.get("device", []):
        if is_plain(line) and line["items"] != 8 or line["precision"] != "f16":
            continue
        ways = [f"{line['lanes']} lanes"] * (line["lanes"] > 1) + ["first product"] * (line["tuning"] == "first")
        ways += ["one at a time"] * (line["flight"] == 1) + ["graph" if line["recorded"] else "eager"]
        text.append(f"| {line['model']} | {line['tokens']} x {line['items']} | {', '.join(ways)} | "
                    f"{number(line['items_per_s'])} | {line['batch_ms']:.3f} |")
    if not text:
        return []
    return ["", "Other ways to run a batch (f16):", "", "| model | tokens x texts | how | texts/s | ms per batch |",
            "|---|---|---|---|---|", *text]


def profiles(run):
    """Return where the time of a batch goes."""
    text = []
    for line in run.found.get("device", []):
        if not line.get("profile"):
            continue
        whole = sum(step["ms"] for step in line["profile"]) or 1.0
        steps = [f"{step['name']} ({step['launches']}x) {100 * step['ms'] / whole:.0f} %" for step in line["profile"][:8]]
        text.append(f"- {line['model']}, {line['tokens']} x {line['items']}, {line['precision']}: {'; '.join(steps)}")
    return ["", "Where the time of a batch goes, launched one by one:", "", *text] if text else []


def markdown(run):
    """Return the whole report."""
    table = Table(run)
    device_rows(run, table)
    served_rows(run, table)
    machine = run.found.get("machine", {})
    title = "emulated device: times mean nothing" if run.is_small else machine.get("gpu") or "an unknown GPU"
    host = f"{machine.get('processor', '-')}, {machine.get('cores', '-')} cores"
    text = [f"## GPU: {title}", "", f"`scripts/gpu-acceptance` ({machine.get('bundle', '-')}); {host}. Random weights, texts "
            "of equal lengths; texts per second."]
    if table.limits:
        operations, memory, origin = table.limits
        rates = f"{operations / 1e12:.0f} TFLOP/s and {memory / 1e12:.2f} TB/s"
        text.append(f"Ceiling: {rates} ({origin}), seven launches a layer.")
    if not run.found.get("torch"):
        text.append("PyTorch: none on this machine.")
    heads = ["what", "model", "tokens", "texts/s", "ceiling", "share", "PyTorch", "how"]
    text += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    text += [f"| {' | '.join(row)} |" for row in table.rows]
    text += variants(run) + profiles(run)
    text += ["", "| step | | s | |", "|---|---|---|---|"]
    text += [f"| {step['step']} | {'ok' if step['ok'] else 'FAILED'} | {step['seconds']} | {clean(step['said'])} |"
             for step in run.steps]
    return "\n".join(text) + "\n"


def clean(said):
    """Return a text that fits into a cell."""
    return " ".join(said.replace("|", "/").split())[:240]
