#!/usr/bin/env python3
"""Compare the library with llama.cpp on the CPU: same file, same text, same threads, in turn, medians.

    pip install llama-cpp-python     (with CMAKE_ARGS=-DGGML_NATIVE=ON, from its sources, for its best)
    compare.py [--threads 2] [--runs 5] [--sequences N] [--no-mmap] LIB MODEL.gguf ...

LIB is target/release/libworker_orcd.so. Each measurement is a process of its own that loads the model, feeds a prompt of about
512 tokens, generates 128 tokens greedily and says how long each part took. `first` is the time from the call that
loads the model to the first token of a one-word prompt; `rss` is the peak resident memory of the process, which for llama.cpp
includes its Python binding. Ours goes through the C functions. A model whose tokenizer is synthetic cannot be fed a text; make such files with --vocab.
"""
import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time

GENERATED = 128
TEXT = ("The lighthouse at the end of the harbour had been dark for eleven years when she decided to repair it. "
        "Salt had eaten through most of the cables, and mice had taken the rest, so she stripped the walls bare. ") * 12


def report(**figures):
    figures["rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))


class Ours:
    def __init__(self, lib, path):
        self.lib = lib = ctypes.CDLL(lib)
        p, i, c = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        error = ctypes.POINTER(ctypes.c_int)
        lib.cuda_init.restype, lib.cuda_init.argtypes = p, [i, error]
        lib.cuda_load_model.restype = p
        lib.cuda_load_model.argtypes = [p, c, ctypes.POINTER(ctypes.c_uint64), error]
        lib.cuda_inference_start.restype = p
        lib.cuda_inference_start.argtypes = [p, c, i, ctypes.c_float, ctypes.c_uint64, error]
        lib.cuda_inference_next_token.restype = ctypes.c_bool
        lib.cuda_inference_next_token.argtypes = [p, c, i, ctypes.POINTER(ctypes.c_int), error]
        lib.cuda_inference_free.argtypes = [p]
        self.error = ctypes.c_int()
        self.context = lib.cuda_init(0, self.error)
        self.check("cuda_init")
        self.model = lib.cuda_load_model(self.context, os.fsencode(path), ctypes.c_uint64(), self.error)
        self.check("cuda_load_model")

    def check(self, what):
        if self.error.value:
            sys.exit(f"{what}: code {self.error.value}")

    def start(self, text, tokens):
        run = self.lib.cuda_inference_start(self.model, text.encode(), tokens, 0.0, 0, self.error)
        self.check("cuda_inference_start")
        return run

    def generate(self, text, tokens):
        """Times at which each piece came."""
        run, piece, index, times = self.start(text, tokens), ctypes.create_string_buffer(4096), ctypes.c_int(), []
        while self.lib.cuda_inference_next_token(run, piece, 4096, index, self.error):
            times.append(time.perf_counter())
        self.check("cuda_inference_next_token")
        self.lib.cuda_inference_free(run)
        return times


def ours(lib, path, prompt_tokens, sequences):
    began = time.perf_counter()
    engine = Ours(lib, path)
    first = engine.generate("Hello", 1)[0] - began
    if sequences > 1:
        return many(engine, sequences, first)
    began = time.perf_counter()
    times = engine.generate(TEXT, 1)
    prefill = times[0] - began
    began = time.perf_counter()
    times = engine.generate("The", GENERATED)
    report(first=first, prefill=prompt_tokens / prefill, decode=(len(times) - 1) / (times[-1] - times[0]))


def many(engine, sequences, first):
    """Pieces per second of several sequences while all of them run, beside those of each alone. Only prompts whose answers
    go on are taken."""
    import threading
    prompts, alone = [], []
    for i in range(100):
        if len(prompts) == sequences:
            break
        times = engine.generate(f"Number {i}:", GENERATED)
        if len(times) >= GENERATED * 3 // 4:
            prompts.append(f"Number {i}:")
            alone.append((len(times) - 1) / (times[-1] - times[0]))
    answers = []
    run = lambda prompt: answers.append(engine.generate(prompt, GENERATED))
    threads = [threading.Thread(target=run, args=(p,)) for p in prompts]
    [t.start() for t in threads]
    [t.join() for t in threads]
    start, end = max(a[0] for a in answers), min(a[-1] for a in answers)
    pieces = sum(sum(start < t <= end for t in a) for a in answers)
    report(first=first, decode=pieces / (end - start), alone=statistics.median(alone))


def peer(path, threads, mmap):
    import llama_cpp
    began = time.perf_counter()
    m = llama_cpp.Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, use_mmap=mmap, verbose=False)
    special = dict(add_bos=True, special=True)
    m.eval(m.tokenize(b"Hello", **special))
    first = time.perf_counter() - began
    m.reset()
    ids = m.tokenize(TEXT.encode(), **special)
    began = time.perf_counter()
    m.eval(ids)
    prefill = time.perf_counter() - began
    m.reset()
    m.eval(m.tokenize(b"The", **special))
    began = time.perf_counter()
    for _ in range(GENERATED - 1):
        m.eval([m.sample(temp=0.0)])
    report(first=first, prefill=len(ids) / prefill, decode=(GENERATED - 1) / (time.perf_counter() - began), tokens=len(ids))


def wheel(path, threads):
    """llama.cpp as a prebuilt package has it, for AVX2, through its server."""
    import xllamacpp
    began = time.perf_counter()
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = path, 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def ask(prompt, tokens):
        wish = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(wish)
        return (answer if isinstance(answer, dict) else json.loads(answer))["timings"]

    ask("Hello", 1)
    first = time.perf_counter() - began
    prompt, answer = ask(TEXT, 1), ask("The", GENERATED)
    report(first=first, prefill=prompt["prompt_per_second"], decode=answer["predicted_per_second"], tokens=prompt["prompt_n"])
    sys.stdout.flush()
    os._exit(0)


def measure(args, environment):
    environment = {**os.environ, "WORKER_ORCD_DEVICE": "cpu", **environment}
    out = subprocess.run([sys.executable, __file__, *map(str, args)], env=environment, capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr or out.stdout)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--sequences", type=int, default=1, help="measure ours alone with so many at once, beside one")
    ap.add_argument("--no-mmap", action="store_true", help="let llama.cpp read the file, where that and its own copy do not both fit")
    ap.add_argument("--wheel", action="store_true", help="compare with the prebuilt package xllamacpp, ours on AVX2 alone")
    ap.add_argument("lib")
    ap.add_argument("models", nargs="+")
    a = ap.parse_args()
    threads = {"WORKER_ORCD_THREADS": str(a.threads)}
    if a.wheel:
        threads["WORKER_ORCD_CPU"] = "avx2"
    print(f"{'model':36} {'':12} {'prefill':>9} {'decode':>9} {'first ms':>9} {'rss MiB':>8}")
    for path in a.models:
        rows = {"llama.cpp": [], "ours": []}
        for _ in range(a.runs):
            if a.sequences > 1:
                rows["ours"].append(measure(["--ours", a.lib, path, 1, a.sequences], threads))
                continue
            peer = ["--wheel-peer", path, a.threads] if a.wheel else ["--peer", path, a.threads, int(not a.no_mmap)]
            rows["llama.cpp"].append(measure(peer, {}))
            rows["ours"].append(measure(["--ours", a.lib, path, rows["llama.cpp"][-1]["tokens"], 1], threads))
        median = lambda who, key: statistics.median(r.get(key, 0) for r in rows[who])
        keys = ["prefill", "decode", "first", "rss_mib"]
        for who in (w for w in rows if rows[w]):
            v = [median(who, k) for k in keys]
            print(f"{os.path.basename(path):36} {who:12} {v[0]:9.1f} {v[1]:9.1f} {1000 * v[2]:9.1f} {v[3]:8.0f}", flush=True)
        if a.sequences > 1:
            print(f"{'':36} {'beside one':12} {'':9} {statistics.median(r['decode'] / r['alone'] for r in rows['ours']):9.2f}", flush=True)
        if rows["llama.cpp"]:
            ratio = [median("ours", k) / median("llama.cpp", k) for k in keys]
            print(f"{'':36} {'ratio':12} {ratio[0]:9.2f} {ratio[1]:9.2f} {ratio[2]:9.2f} {ratio[3]:8.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        ours(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
    elif sys.argv[1:2] == ["--wheel-peer"]:
        wheel(sys.argv[2], int(sys.argv[3]))
    else:
        main()
