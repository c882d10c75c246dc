package workerorcd

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"math"
	"unsafe"
)

// Options of an answer; what is zero is as without it. The same seed gives the same text.
type Options struct {
	MaxTokens         int     // 0: as many as the context holds
	Temperature       float32 // 0 to 2; 0 always takes the likeliest token
	Seed              uint64
	TopK              int      // only the k likeliest tokens
	TopP              float32  // only the likeliest tokens that together have this probability
	MinP              float32  // only tokens with at least this share of the likeliest one's probability
	RepetitionPenalty float32  // divides the logits of tokens that prompt or answer have
	FrequencyPenalty  float32  // taken from a token's logit for each time that the answer has it
	PresencePenalty   float32  // taken from a token's logit if the answer has it
	Logprobs          bool     // keep each token's log-probability, for Inference.Tokens
	Stops             []string // strings that end the answer and are no part of it
}

// KVType is how keys and values are stored.
type KVType int

const (
	KVDefault KVType = 0
	KVF16     KVType = 1
	KVF32     KVType = 2 // on the CPU alone
)

// LoadOptions of a model; what is zero is as without it.
type LoadOptions struct {
	// Progress is called with bytes done and bytes in all; false ends the load.
	Progress  func(done, all uint64) bool
	Context   uint32 // lowers the tokens of an answer and its prompt
	Sequences uint32 // lowers the number of answers that are computed at once
	KV        KVType
}

// raw gives the options as C has them, and what frees their memory.
func (o *Options) raw() (options C.worker_orcd_start_options, free func(), err error) {
	for _, count := range [...]struct {
		name  string
		value int
	}{{"MaxTokens", o.MaxTokens}, {"TopK", o.TopK}} {
		if count.value < 0 || uint64(count.value) > math.MaxUint32 {
			reason := fmt.Sprintf("%s is %d", count.name, count.value)
			return options, nil, &Error{Code: InvalidParameter, Reason: reason}
		}
	}
	options.stops, free, err = cStrings(o.Stops)
	options.stop_count = C.size_t(len(o.Stops))
	options.seed = C.uint64_t(o.Seed)
	options.max_tokens = C.uint32_t(o.MaxTokens)
	options.temperature = C.float(o.Temperature)
	options.top_k = C.uint32_t(o.TopK)
	options.top_p = C.float(o.TopP)
	options.min_p = C.float(o.MinP)
	options.repetition_penalty = C.float(o.RepetitionPenalty)
	options.frequency_penalty = C.float(o.FrequencyPenalty)
	options.presence_penalty = C.float(o.PresencePenalty)
	if o.Logprobs {
		options.logprobs = 1
	}
	return options, free, err
}

// cStrings copies strings to an array in C's memory.
func cStrings(all []string) (**C.char, func(), error) {
	if len(all) == 0 {
		return nil, func() {}, nil
	}
	array := (**C.char)(C.calloc(C.size_t(len(all)), C.size_t(unsafe.Sizeof((*C.char)(nil)))))
	strings := unsafe.Slice(array, len(all))
	free := func() {
		for _, s := range strings {
			C.free(unsafe.Pointer(s))
		}
		C.free(unsafe.Pointer(array))
	}
	for i, s := range all {
		text, err := cString("a stop string", s)
		if err != nil {
			free()
			return nil, nil, err
		}
		strings[i] = text
	}
	return array, free, nil
}
