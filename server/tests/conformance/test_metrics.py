"""The metrics page: every family, all series from load, counts that match what the clients did."""

import json
import re
import urllib.request

import pytest

from harness.models import ensemble, write, write_identity, write_repeat, write_sleep
from harness.server import Server, wait_until
from harness.state import hold, nap
from harness.wire import UNAVAILABLE, refused, request

LIMIT_S = 60

MODEL_FAMILIES = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count", "nv_model_load_duration_secs",
}
HOST_FAMILIES = {
    "nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes", "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage", "nv_gpu_power_limit",
    "nv_energy_consumption", "nv_pinned_memory_pool_total_bytes", "nv_pinned_memory_pool_used_bytes",
}
CACHE_FAMILIES = {
    "nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model", "nv_cache_hit_duration_per_model",
    "nv_cache_miss_duration_per_model",
}
OUR_HISTOGRAMS = {
    "alcedo_request_seconds", "alcedo_queue_seconds", "alcedo_batch_assembly_seconds", "alcedo_compute_input_seconds",
    "alcedo_compute_infer_seconds", "alcedo_compute_output_seconds", "alcedo_batch_rows", "alcedo_batch_cost",
    "alcedo_batch_padding_ratio",
}
SUMMARIES = {
    "nv_inference_request_summary_us", "nv_inference_queue_summary_us", "nv_inference_compute_input_summary_us",
    "nv_inference_compute_infer_summary_us", "nv_inference_compute_output_summary_us",
}
LINE = re.compile(r'^([a-z_]+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Page:
    """A parsed page: `families` by name with their kinds, `values` by (name, labels)."""

    def __init__(self, server):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=LIMIT_S) as reply:
            assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            text = reply.read().decode()
        self.families, self.values = {}, {}
        current = None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                current = line.split(" ")[2]
                assert current not in self.families, f"{current} stands there twice"
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name == current
                self.families[name] = kind
            else:
                name, labels, value = LINE.match(line).groups()
                assert name.startswith(current), f"{name} among those of {current}"
                key = (name, frozenset(LABEL.findall(labels or "")))
                assert key not in self.values, f"{line} stands there twice"
                self.values[key] = float(value)

    def get(self, name, **labels):
        """Return the value of the one series with these labels."""
        return self.values[(name, frozenset((key, str(value)) for key, value in labels.items()))]

    def of(self, name, **labels):
        """Return the values of the series that have at least these labels, and their labels."""
        wanted = {(key, str(value)) for key, value in labels.items()}
        return [(dict(found), value) for (known, found), value in self.values.items()
                if known == name and wanted <= found]

    def sum(self, name, **labels):
        """Return the sum of those."""
        return sum(value for _, value in self.of(name, **labels))


def one(model, rows=None, id="", parameters=None):
    shape = [4] if rows is None else [rows, 4]
    return request(model, [("INPUT0", "FP32", shape, [1.0] * 4 * (rows or 1))], id=id, parameters=parameters)


@pytest.fixture(name="server")
def fixture_server(repository):
    write_identity(repository, "plain")
    write_identity(repository, "batched", max_batch_size=8,
                   extra="dynamic_batching { priority_levels: 3 default_priority_level: 2 }")
    write_repeat(repository, "repeat")
    write(repository, "chain", ensemble(
        "chain", [("IN", "FP32", [-1])], [("OUT", "FP32", [-1])],
        [("plain", {"INPUT0": "IN"}, {"OUTPUT0": "OUT"})]))
    with Server(repository, "--metrics-interval-ms", "50") as server:
        yield server


def test_all_series_are_there_from_load_at_zero(server):
    page = Page(server)
    assert MODEL_FAMILIES | HOST_FAMILIES | CACHE_FAMILIES | OUR_HISTOGRAMS <= set(page.families)
    for model in ("plain", "batched", "repeat", "chain"):
        for family in MODEL_FAMILIES - {"nv_model_load_duration_secs", "nv_inference_request_failure"}:
            assert page.get(family, model=model, version=1) == 0, (family, model)
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
            assert page.get("nv_inference_request_failure", model=model, version=1, reason=reason) == 0
        assert page.get("nv_model_load_duration_secs", model=model, version=1) >= 0
        assert len(page.of("alcedo_requests_lost_total", model=model)) == 5 * 6
        assert page.sum("alcedo_requests_lost_total", model=model) == 0
    for family in OUR_HISTOGRAMS:
        assert page.families[family] == "histogram"
        assert page.get(f"{family}_count", model="plain", version=1) == 0
    levels = {labels["level"]: value for labels, value in page.of("alcedo_queue_depth", model="batched")}
    assert levels == {"1": 0, "2": 0, "3": 0}
    assert not page.of("alcedo_saturation", model="chain"), "an ensemble has no instances"
    assert not page.of("nv_cache_num_hits_per_model"), "no model is cached"


def test_the_machine_is_watched(server):
    page = wait_until(lambda: next((page for page in [Page(server)] if page.of("nv_cpu_utilization")), None),
                      "the second look at the processors")
    assert 0 <= page.get("nv_cpu_utilization") <= 1
    assert 0 < page.get("nv_cpu_memory_used_bytes") < page.get("nv_cpu_memory_total_bytes")
    assert page.get("nv_pinned_memory_pool_total_bytes") == page.get("nv_pinned_memory_pool_used_bytes") == 0
    for labels, value in page.of("nv_gpu_utilization"):
        assert labels["gpu_uuid"].startswith("GPU-") and 0 <= value <= 1
    assert abs(page.get("process_resident_memory_bytes") / server.resident_bytes() - 1) < 0.5


def test_counts_match_what_the_client_did(server):
    stub = server.stub()
    for _ in range(3):
        stub.ModelInfer(one("plain"), timeout=LIMIT_S)
    for rows in (1, 3, 8):
        stub.ModelInfer(one("batched", rows), timeout=LIMIT_S)
    stub.ModelInfer(request("chain", [("IN", "FP32", [2], [1.0, 2.0])]), timeout=LIMIT_S)
    page = Page(server)
    assert page.get("nv_inference_request_success", model="plain", version=1) == 4
    assert page.get("nv_inference_request_success", model="chain", version=1) == 1
    assert page.get("nv_inference_count", model="batched", version=1) == 12
    assert page.get("nv_inference_exec_count", model="batched", version=1) == 3
    labels = {"model": "batched", "version": 1}
    assert page.get("alcedo_request_seconds_count", **labels) == 3
    assert page.get("alcedo_queue_seconds_count", **labels) == 3
    for family in ("compute_infer_seconds", "batch_assembly_seconds", "batch_rows", "batch_cost", "batch_padding_ratio"):
        assert page.get(f"alcedo_{family}_count", **labels) == 3, family
    assert page.get("alcedo_batch_rows_sum", **labels) == 12
    assert page.get("alcedo_batch_rows_bucket", le=2, **labels) == 1
    assert page.get("alcedo_batch_rows_bucket", le=4, **labels) == 2
    assert page.get("alcedo_batch_rows_bucket", le="+Inf", **labels) == 3
    assert page.sum("alcedo_batches_total", model="batched") == 3
    seconds = page.get("alcedo_request_seconds_sum", **labels)
    assert abs(seconds * 1e6 - page.get("nv_inference_request_duration_us", **labels)) <= 1 + 3
    assert page.get("alcedo_instance_busy_seconds_total", instance=0, **labels) > 0
    assert not page.of("alcedo_batches_total", model="chain"), "an ensemble forms no batches"


def test_losses_have_stage_cause_and_reason(repository):
    write_sleep(repository, "sleep")
    write_identity(repository, "held", max_batch_size=4, extra="""
        dynamic_batching { default_queue_policy { default_timeout_microseconds: 1000 } }""")
    with Server(repository, env={"TRITONSERVER_DELAY_SCHEDULER": "100"}) as server:
        with refused(UNAVAILABLE, "Request timeout expired"):
            server.stub().ModelInfer(one("held", 1), timeout=LIMIT_S)
        page = Page(server)
        assert page.get("nv_inference_request_failure", model="held", version=1, reason="REJECTED") == 1
        assert page.get("alcedo_requests_lost_total", model="held", version=1, stage="queue", cause="expired") == 1
        assert page.sum("alcedo_requests_lost_total", model="held") == 1
        # A client that leaves while the model runs.
        running = hold(server, nap("sleep"))
        assert Page(server).get("alcedo_requests_in_flight") == 1
        running.cancel()
        lost = {"model": "sleep", "version": 1, "cause": "canceled"}
        wait_until(lambda: Page(server).sum("alcedo_requests_lost_total", **lost) == 1, "it is counted")
        assert Page(server).get("nv_inference_request_failure", model="sleep", version=1, reason="CANCELED") == 1


def test_a_busy_model_saturates(repository):
    write_sleep(repository, "sleep")
    with Server(repository, "--metrics-interval-ms", "20") as server:
        assert Page(server).get("alcedo_saturation", model="sleep", version=1) == 0
        running = hold(server, nap("sleep"))
        busy = {"model": "sleep", "version": 1}
        wait_until(lambda: Page(server).get("alcedo_instance_busy_ratio", **busy) == 1, "the instance is busy")
        wait_until(lambda: Page(server).get("alcedo_saturation", **busy) > 0.5, "the model is saturated")
        page = Page(server)
        assert page.get("alcedo_saturation_max") == page.get("alcedo_saturation", **busy)
        running.cancel()
        wait_until(lambda: Page(server).get("alcedo_instance_busy_ratio", **busy) == 0, "the instance is idle")


def test_histograms_and_summaries_are_off_until_asked_for(repository, server):
    page = Page(server)
    assert not (SUMMARIES | {"nv_inference_first_response_histogram_ms"}) & set(page.families)
    flags = ["--metrics-config", "histogram_latencies=true", "--metrics-config", "summary_latencies=true",
             "--metrics-config", "summary_quantiles=0.5:0.05,0.99:0.001"]
    with Server(repository, *flags) as asked:
        labels = {"model": "plain", "version": 1}
        assert str(Page(asked).get("nv_inference_request_summary_us", quantile=0.5, **labels)) == "nan"
        asked.stub().ModelInfer(one("plain"), timeout=LIMIT_S)
        list(asked.stub().ModelStreamInfer(iter([request("repeat", [
            ("IN", "INT32", [3], [1, 2, 3]), ("DELAY", "UINT32", [3], [0] * 3), ("WAIT", "UINT32", [1], [0])])])))
        asked.stub().ModelInfer(request("chain", [("IN", "FP32", [2], [1.0, 2.0])]), timeout=LIMIT_S)
        asked.stub().ModelInfer(one("plain"), timeout=LIMIT_S)
        page = Page(asked)
        assert SUMMARIES <= set(page.families)
        for family in SUMMARIES:
            assert {found["quantile"] for found, _ in page.of(family, **labels)} == {"0.5", "0.99"}
            assert page.get(f"{family}_count", **labels) == 3
        assert page.get("nv_inference_request_summary_us", quantile=0.99, **labels) > 0
        first = "nv_inference_first_response_histogram_ms"
        assert {found["le"] for found, _ in page.of(f"{first}_bucket", **labels)} == {"100", "500", "2000", "5000", "+Inf"}
        assert page.get(f"{first}_count", **labels) == 3
        assert page.get(f"{first}_count", model="chain", version=1) == 1
        assert page.get(f"{first}_count", model="repeat", version=1) == 1, "of three responses only the first counts"


def test_a_model_may_have_its_own_buckets(repository):
    write_identity(repository, "own", extra="""model_metrics { metric_control {
        metric_identifier { family: "nv_inference_first_response_histogram_ms" } histogram_options { buckets: [ 1, 2.5 ] } } }""")
    with Server(repository, "--metrics-config=histogram_latencies=true") as server:
        found = Page(server).of("nv_inference_first_response_histogram_ms_bucket", model="own")
        assert {labels["le"] for labels, _ in found} == {"1", "2.5", "+Inf"}


def test_what_is_not_wanted_is_not_there(repository):
    write_identity(repository, "plain")
    with Server(repository, "--metrics-config", "detailed=false", "--metrics-config", "counter_latencies=false",
                "--allow-cpu-metrics=false") as server:
        server.stub().ModelInfer(one("plain"), timeout=LIMIT_S)
        page = Page(server)
        assert not [name for name in page.families if name.startswith(("alcedo_", "process_"))]
        assert not [name for name in page.families if name.endswith("_duration_us")]
        assert page.get("nv_inference_request_success", model="plain", version=1) == 1, "only the durations are off"
        assert not page.of("nv_cpu_memory_total_bytes")


def test_only_failures_stay_when_a_model_is_unloaded(server):
    server.client().unload_model("plain", unload_dependents=True)
    page = Page(server)
    names = {name for name, labels in page.values if ("model", "plain") in labels}
    assert names == {"nv_inference_request_failure"}


def test_spans_of_requests_and_batches_name_each_other(repository):
    write_identity(repository, "batched", max_batch_size=8, extra="dynamic_batching { }")
    flags = ["--log-format", "json", "--log-level", "info,alcedo::request=debug,alcedo::batch=debug"]
    with Server(repository, *flags) as server:
        call = server.stub().ModelInfer
        call(one("batched", 2, id="mine"), metadata=[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
             timeout=LIMIT_S)

        def closed(name):
            spans = [json.loads(line) for line in server.log().splitlines() if '"message":"close"' in line]
            return next((span["span"] for span in spans if span["span"]["name"] == name), None)

        asked = wait_until(lambda: closed("request"), "the span of the request ends")
        batch = wait_until(lambda: closed("batch"), "the span of the batch ends")
        assert (asked["id"], asked["model"], asked["outcome"]) == ("mine", "batched", "answered")
        assert asked["traceparent"].startswith("00-0af7651916cd43dd")
        assert (asked["batch"], batch["rows"], batch["requests"]) == (batch["batch"], 2, 1)
