#!/usr/bin/env python3
"""Embed sentences with a served sentence encoder, in the three ways that tritonclient offers.

    python embed.py                                   # three groups of sentences, all three ways
    python embed.py --mode stream "One." "Another."   # own sentences, over one stream

Needs `pip install 'tritonclient[grpc]'` and a running server:

    alcedo serve --model-repository examples/repository
"""

import argparse
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

SENTENCES = [
    "The ferry to the island leaves at nine in the morning.",
    "Every day at 9 a.m. a boat sails to the island.",
    "She tuned her violin before the concert began.",
    "The musician checked her instrument ahead of the show.",
    "Our compiler reports the line on which an error was found.",
    "Bread needs flour, water, salt and patience.",
]


def text_input(sentences):
    """Return the request's input: TEXT, BYTES [rows, 1]."""
    tensor = triton.InferInput("TEXT", [len(sentences), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[sentence.encode("utf-8")] for sentence in sentences], dtype=np.object_))
    return [tensor]


def embed_sync(client, model, sentences, timeout_s):
    """Send all sentences as one batch and wait for the reply: FP32 [rows, width]."""
    return client.infer(model, text_input(sentences), client_timeout=timeout_s).as_numpy("EMBEDDING")


def embed_async(client, model, sentences, timeout_s):
    """Send each sentence as a request of its own, all at once; the server batches those that meet."""
    results = queue.Queue()
    for place, sentence in enumerate(sentences):
        client.async_infer(
            model, text_input([sentence]),
            lambda result, error, place=place: results.put((place, result, error)), client_timeout=timeout_s)
    rows = [None] * len(sentences)
    for _ in sentences:
        place, result, error = results.get(timeout=2 * timeout_s)
        if error is not None:
            raise error
        rows[place] = result.as_numpy("EMBEDDING")[0]
    return np.stack(rows)


def embed_stream(client, model, sentences, timeout_s):
    """Send the sentences over one stream; a reply is matched with its request by the request's id."""
    results = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)), stream_timeout=timeout_s)
    try:
        for place, sentence in enumerate(sentences):
            client.async_stream_infer(model, text_input([sentence]), request_id=str(place))
        rows = [None] * len(sentences)
        for _ in sentences:
            result, error = results.get(timeout=2 * timeout_s)
            if error is not None:
                raise error
            rows[int(result.get_response().id)] = result.as_numpy("EMBEDDING")[0]
    finally:
        client.stop_stream()
    return np.stack(rows)


MODES = {"sync": embed_sync, "async": embed_async, "stream": embed_stream}


def print_similarities(sentences, embeddings):
    """Print the cosine similarity of each pair; the embeddings have unit length."""
    similarity = embeddings @ embeddings.T
    for place, sentence in enumerate(sentences):
        print(f"  {place + 1}. {sentence}")
    print("     " + "".join(f"{place + 1:7d}" for place in range(len(sentences))))
    for place, row in enumerate(similarity):
        print(f"  {place + 1:2d} " + "".join(f"{value:7.3f}" for value in row))


def parse_arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Embed sentences with a model that an Alcedo server serves.")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="default: six sentences of our own")
    parser.add_argument("--url", default="localhost:8001", help="address of the gRPC port (default: %(default)s)")
    parser.add_argument("--model", default="minilm", help="name of the model (default: %(default)s)")
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all", help="how to send (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS",
                        help="deadline of each call (default: %(default)s)")
    return parser.parse_args()


def main():
    """Run the command line and return the exit status."""
    arguments = parse_arguments()
    sentences = arguments.sentences or SENTENCES
    modes = list(MODES) if arguments.mode == "all" else [arguments.mode]
    try:
        with triton.InferenceServerClient(arguments.url) as client:
            if not client.is_model_ready(arguments.model):
                print(f"the model '{arguments.model}' is not ready at {arguments.url}", file=sys.stderr)
                return 1
            answers = {mode: MODES[mode](client, arguments.model, sentences, arguments.timeout) for mode in modes}
    except InferenceServerException as error:
        print(f"{arguments.url}: {error}", file=sys.stderr)
        return 1
    first = answers[modes[0]]
    print(f"{len(sentences)} sentences, embeddings of {first.shape[1]} numbers, cosine similarities:")
    print_similarities(sentences, first)
    for mode, embeddings in answers.items():
        print(f"{mode}: largest difference to {modes[0]} {float(np.abs(embeddings - first).max()):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
