package workerorcd

/*
#include "shim.h"
*/
import "C"

import (
	"runtime"
	"unsafe"
)

// Model is a model on a device. It outlives its context.
type Model struct{ *handle }

// VRAM is the number of bytes the model holds on the device now; 0 when it is closed.
func (m *Model) VRAM() uint64 {
	defer runtime.KeepAlive(m.handle)
	return uint64(C.shim_usage(m.id))
}

// CheckResidency is nil if every weight is in the device's memory.
func (m *Model) CheckResidency() error {
	defer runtime.KeepAlive(m.handle)
	return call(func(code *C.int) { C.shim_check_residency(m.id, code) })
}

// Start begins an answer to a text. The text of control tokens in it becomes those tokens.
func (m *Model) Start(prompt string, o Options) (*Inference, error) {
	text, err := cString("the prompt", prompt)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	return m.start(text, nil, o)
}

// StartTokens begins an answer after tokens; nothing is added to them.
func (m *Model) StartTokens(ids []uint32, o Options) (*Inference, error) { return m.start(nil, ids, o) }

func (m *Model) start(text *C.char, ids []uint32, o Options) (*Inference, error) {
	defer runtime.KeepAlive(m.handle)
	options, free, err := o.raw()
	if err != nil {
		return nil, err
	}
	defer free()
	var id C.uintptr_t
	err = call(func(code *C.int) {
		id = C.shim_start(m.id, text, first(ids), C.size_t(len(ids)), options, code)
	})
	if err != nil {
		return nil, err
	}
	return &Inference{newHandle(id, func(id C.uintptr_t) { C.shim_free(id) })}, nil
}

// first is where C finds a slice's ids.
func first(ids []uint32) *C.uint32_t {
	if len(ids) == 0 {
		return nil
	}
	return (*C.uint32_t)(unsafe.Pointer(&ids[0]))
}

// Tokenize gives the tokens of a text: with those that the file wants around a prompt if special; with the text of
// control tokens taken as those tokens if control.
func (m *Model) Tokenize(text string, special, control bool) ([]uint32, error) {
	defer runtime.KeepAlive(m.handle)
	raw, err := cString("the text", text)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(raw))
	// Few texts have more tokens than bytes and a few around them; one that does is asked for again.
	for room := len(text) + 4; ; {
		ids := make([]uint32, room)
		var count C.size_t
		err := call(func(code *C.int) {
			count = C.shim_tokenize(m.id, raw, C.bool(special), C.bool(control), first(ids), C.size_t(room), code)
		})
		if err != nil {
			return nil, err
		}
		if int(count) <= room {
			return ids[:count], nil
		}
		room = int(count)
	}
}

// Detokenize gives the bytes that tokens stand for, which need not be whole UTF-8.
func (m *Model) Detokenize(ids []uint32) (string, error) {
	defer runtime.KeepAlive(m.handle)
	return copied(func(buffer *C.char, size C.size_t, code *C.int) C.size_t {
		return C.shim_detokenize(m.id, first(ids), C.size_t(len(ids)), buffer, size, code)
	})
}

// ChatTemplate is the text of the file's chat template; empty if there is none.
func (m *Model) ChatTemplate() (string, error) {
	defer runtime.KeepAlive(m.handle)
	return copied(func(buffer *C.char, size C.size_t, code *C.int) C.size_t {
		return C.shim_chat_template(m.id, buffer, size, code)
	})
}

// copied asks for a length and then for as many bytes.
func copied(copyOut func(*C.char, C.size_t, *C.int) C.size_t) (string, error) {
	var length C.size_t
	if err := call(func(code *C.int) { length = copyOut(nil, 0, code) }); err != nil {
		return "", err
	}
	buffer := make([]byte, length+1)
	err := call(func(code *C.int) { copyOut((*C.char)(unsafe.Pointer(&buffer[0])), length+1, code) })
	return string(buffer[:length]), err
}

// Facts are what a file says of its model.
type Facts struct {
	Family       string // the architecture, such as "llama"
	Quantisation string // the mixture of types, such as "Q4_K_M"
	Parameters   uint64
	Context      int // tokens that an answer and its prompt may have together
	Vocabulary   int
	BOS, EOS     int // the tokens that begin and end a text; -1 where the file names none
}

// Facts gives what the file says of the model.
func (m *Model) Facts() (Facts, error) {
	defer runtime.KeepAlive(m.handle)
	var raw C.worker_orcd_model_facts
	if err := call(func(code *C.int) { C.shim_facts(m.id, &raw, code) }); err != nil {
		return Facts{}, err
	}
	return Facts{
		Family:       C.GoString(&raw.family[0]),
		Quantisation: C.GoString(&raw.quantisation[0]),
		Parameters:   uint64(raw.parameters),
		Context:      int(raw.context),
		Vocabulary:   int(raw.vocabulary),
		BOS:          int(raw.bos),
		EOS:          int(raw.eos),
	}, nil
}
