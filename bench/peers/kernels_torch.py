#!/usr/bin/env python3
"""Times PyTorch on the problems of engine_bench's memory-bound kernels, by the same protocol.

torch.compile with coordinate descent, 5 warm-up calls, 20 samples: each one call between two CUDA
events after the L2 was flushed by reading a buffer of twice its size; the median counts. Between
flush and sample the device waits for longer than the call takes to launch. Prints CSV:
name,metric,dtype,arch,config,value,program,source.
Usage: kernels_torch.py [gemv|gather_gemv|layer_norm|mlp ...]
"""
import csv
import datetime
import statistics
import sys

import torch
import torch._inductor.config as inductor

inductor.coordinate_descent_tuning = True
SIZES = (1024, 4096, 8192, 16384)
INNER = 14336
torch.manual_seed(1234)
DEVICE = "cuda"
L2 = torch.cuda.get_device_properties(0).L2_cache_size
FLUSH = torch.ones(2 * L2 // 4, device=DEVICE, dtype=torch.int32)
LAUNCHING = 1_000_000  # clock cycles
CARD = torch.cuda.get_device_name()
SOURCE = f"kernels_torch.py, PyTorch {torch.__version__} with coordinate descent on one {CARD}"
SOURCE += f", {datetime.date.today()}"
OUT = csv.writer(sys.stdout, lineterminator="\n")


def cold_us(call):
    for _ in range(5):
        call()
    samples = []
    for _ in range(20):
        FLUSH.max()
        torch.cuda._sleep(LAUNCHING)
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        samples.append(1e3 * start.elapsed_time(stop))
    return statistics.median(samples)


def row(name, dtype, size, value, metric="memory_bandwidth_{}(GB/s)"):
    config = f"size={size} timing=cold"
    OUT.writerow((name, metric.format(size), dtype, CARD, config, f"{value:.1f}", "torch.compile",
                  SOURCE))
    sys.stdout.flush()


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def gemv():
    for dtype in ("bfloat16", "int8"):
        for d in SIZES:
            if dtype == "int8":
                w = torch.randint(-128, 127, (d, d), device=DEVICE, dtype=torch.int8)
            else:
                w = torch.randn(d, d, device=DEVICE, dtype=torch.bfloat16)
            x = torch.randn(d, device=DEVICE, dtype=torch.bfloat16)
            f = compiled(lambda w, x: torch.sum(w.to(torch.bfloat16) * x, dim=-1))
            row("gemv", dtype, d, w.numel() * w.element_size() / cold_us(lambda: f(w, x)) / 1e3)


def gather_gemv():
    for dtype in ("bfloat16", "int8"):
        for d in SIZES:
            if dtype == "int8":
                w = torch.randint(-128, 127, (8, d, d), device=DEVICE, dtype=torch.int8)
            else:
                w = torch.randn(8, d, d, device=DEVICE, dtype=torch.bfloat16)
            x = torch.randn(d, device=DEVICE, dtype=torch.bfloat16)
            chosen = torch.tensor([3, 5], device=DEVICE)
            f = compiled(lambda w, i, x: torch.sum(w[i].to(x.dtype) * x, dim=-1))
            us = cold_us(lambda: f(w, chosen, x))
            row("gather_gemv", dtype, d, 2 * d * d * w.element_size() / us / 1e3)


def layer_norm():
    for d in SIZES:
        x = torch.randn(4096, d, device=DEVICE, dtype=torch.bfloat16)
        w, b = torch.randn(d, device=DEVICE), torch.randn(d, device=DEVICE)
        f = compiled(lambda x, w, b: torch.nn.functional.layer_norm(x.float(), (d,), w, b)
                     .to(torch.bfloat16))
        row("layer_norm", "bfloat16", d, 2 * x.numel() * 2 / cold_us(lambda: f(x, w, b)) / 1e3)


def mlp():
    for d in SIZES:
        n = torch.nn
        layers = (n.Linear(d, INNER), n.LayerNorm(INNER), n.Linear(INNER, d), n.LayerNorm(d))
        one = n.Sequential(*layers).to(DEVICE, torch.bfloat16)
        many = n.Sequential(layers[0], n.GELU(approximate="tanh"), *layers[1:])
        with torch.no_grad():
            x = torch.randn(d, device=DEVICE, dtype=torch.bfloat16)
            f = compiled(one)
            row("mlp_layer_norm_gelu", "bfloat16", d,
                4 * INNER * d / cold_us(lambda: f(x)) / 1e3)
            x = torch.randn(4096, d, device=DEVICE, dtype=torch.bfloat16)
            g = compiled(many)
            row("mlp_layer_norm_gelu", "bfloat16", d,
                4096 * 4 * INNER * d / cold_us(lambda: g(x)) / 1e6, "rate_4096_rows_{}(TFLOP/s)")


EXPERIMENTS = {"gemv": gemv, "gather_gemv": gather_gemv, "layer_norm": layer_norm, "mlp": mlp}
OUT.writerow("name,metric,dtype,arch,config,value,program,source".split(","))
for wanted in sys.argv[1:] or EXPERIMENTS:
    EXPERIMENTS[wanted]()
