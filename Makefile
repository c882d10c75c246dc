# Everything a person types. The work is done by cargo and by scripts/.
#
#   make run        stream an answer of a real model, on the GPU if there is one
#   make test       what CI runs
#   make lib        the release libraries, in target/release
#   make install    PREFIX=/usr/local DESTDIR=
#   make uninstall  the same variables
#   make bench      speeds beside llama.cpp's, on this machine

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
MODEL   ?= .models/SmolLM2-135M-Instruct.Q4_1.gguf
PROMPT  ?= Why is the sky blue? Answer in three sentences.
TOKENS  ?= 160
EXAMPLES = build/examples

.PHONY: run test lib install uninstall bench examples tools nvcc

run: examples
	@scripts/get-model.sh "$(MODEL)"
	@$(EXAMPLES)/generate --model "$(MODEL)" --device auto --chat --tokens $(TOKENS) "$(PROMPT)"

lib: tools nvcc
	$(CARGO) build --release

examples: lib
	@$(MAKE) --no-print-directory -C examples-c TREE=.. OUT=../$(EXAMPLES)

test: tools nvcc
	@test -e /dev/nvidiactl || echo "No NVIDIA device on this machine: the tests that need a GPU say so and skip."
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps --no-default-features
	$(CARGO) test

install: lib
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install.sh

uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install.sh --uninstall

bench: lib
	@scripts/bench.sh "$(MODEL)"

tools:
	@scripts/check-tools.sh

nvcc:
	@scripts/get-nvcc.sh
