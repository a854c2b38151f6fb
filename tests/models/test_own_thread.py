"""All that torch computes on a CPU is computed by one thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from geoscale.models.own_thread import call, call_on
from geoscale.models.torch_predictor import TorchPredictor


def test_whoever_calls_it_is_one_thread():
    seen = []

    def note():
        seen.append(call(threading.get_ident))

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_a_call_within_a_call_does_not_wait_for_itself():
    assert call(lambda: call(lambda: call(int, "7"))) == 7


def test_each_device_has_a_thread_of_its_own_that_stays():
    """cuDNN's plans are kept by thread: one that comes and goes would plan anew."""
    seen = []

    def note():
        seen.append(call_on("cuda:0", threading.get_ident))
        seen.append(call_on("cuda", threading.get_ident))

    for _ in range(2):
        thread = threading.Thread(target=note)
        thread.start()
        thread.join()
    assert len(set(seen)) == 1
    assert call_on("cuda:1", threading.get_ident) != seen[0]
    assert call(threading.get_ident) != seen[0]
    inside = call_on("cuda", lambda: call_on("cuda:0", threading.get_ident))
    assert inside == seen[0]


def test_errors_come_home():
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0)


def test_a_network_computes_there(tiny_card):
    import torch

    seen = []

    class Module(torch.nn.Module):
        def forward(self, x):
            seen.append(threading.get_ident())
            classes = len(tiny_card.output.classes)
            return x[:, :1].repeat(1, classes, 1, 1)

    predictor = TorchPredictor(Module(), tiny_card, batch=1)
    size, channels = tiny_card.input.patch.size, tiny_card.input.channels
    patches = np.zeros((1, channels, size, size), np.float32)
    threads = [threading.Thread(target=predictor.predict, args=(patches,))]
    threads[0].start()
    threads[0].join()
    predictor.predict(patches)
    assert set(seen) == {call(threading.get_ident)}
