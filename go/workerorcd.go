// Package workerorcd runs GGUF language models through libworker_orcd.
//
//	ctx, err := workerorcd.NewContext(0)
//	model, err := ctx.Load("model.gguf")
//	inference, err := model.Start("Once upon a time", workerorcd.Options{MaxTokens: 100})
//	for {
//		piece, err := inference.Next(context.Background())
//		if err == io.EOF {
//			break
//		}
//		fmt.Print(piece.Text)
//	}
//
// Everything is safe for use by many goroutines at once. Close may be called twice and in any order; what is
// never closed is closed when it is collected. The package is built with pkg-config's worker_orcd.
package workerorcd

/*
#cgo pkg-config: worker_orcd
#include "shim.h"
*/
import "C"

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"
)

// DeviceCount is the number of devices: 0 without a driver. WORKER_ORCD_DEVICE=cpu makes the host the one device.
func DeviceCount() int { return int(C.cuda_get_device_count()) }

// call runs f, which returns an error code, and makes it an error with its reason. The reason is kept per
// thread, so the goroutine stays on one thread until it has been fetched.
func call(f func(code *C.int)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var code C.int
	f(&code)
	if code == 0 {
		return nil
	}
	return &Error{Code: Code(code), Reason: lastReason()}
}

func lastReason() string {
	length := C.worker_orcd_last_error(nil, 0)
	if length == 0 {
		return ""
	}
	buffer := make([]byte, length+1)
	C.worker_orcd_last_error((*C.char)(unsafe.Pointer(&buffer[0])), length+1)
	return string(buffer[:length])
}

// cString copies a string for C; a NUL byte inside would cut it short, which is an error.
func cString(what, s string) (*C.char, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return nil, &Error{Code: InvalidParameter, Reason: what + " holds a NUL byte"}
	}
	return C.CString(s), nil
}

// handle is an id of the library's, closed once. The library checks ids, so a use after Close is an error and
// does no harm.
type handle struct {
	id     C.uintptr_t
	closed atomic.Bool
	free   func(C.uintptr_t)
}

func newHandle(id C.uintptr_t, free func(C.uintptr_t)) *handle {
	h := &handle{id: id, free: free}
	runtime.SetFinalizer(h, func(h *handle) { h.Close() })
	return h
}

// Close gives it back. The second time it does nothing.
func (h *handle) Close() error {
	if h.closed.CompareAndSwap(false, true) {
		runtime.SetFinalizer(h, nil)
		h.free(h.id)
	}
	return nil
}

// Context is a device that is open.
type Context struct{ *handle }

// NewContext opens a device.
func NewContext(device int) (*Context, error) {
	var id C.uintptr_t
	err := call(func(code *C.int) { id = C.shim_init(C.int(device), code) })
	if err != nil {
		return nil, err
	}
	return &Context{newHandle(id, func(id C.uintptr_t) { C.shim_destroy(id) })}, nil
}

// ProcessVRAM is the number of bytes that this process holds on the device through the library.
func (c *Context) ProcessVRAM() uint64 {
	defer runtime.KeepAlive(c.handle)
	return uint64(C.shim_process_usage(c.id))
}

// CheckHealth is nil while the device works.
func (c *Context) CheckHealth() error {
	defer runtime.KeepAlive(c.handle)
	return call(func(code *C.int) { C.shim_check_health(c.id, code) })
}

// Load puts the model of a GGUF file on the device.
func (c *Context) Load(path string) (*Model, error) {
	defer runtime.KeepAlive(c.handle)
	text, err := cString("the path", path)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	var id C.uintptr_t
	if err := call(func(code *C.int) { id = C.shim_load(c.id, text, code) }); err != nil {
		return nil, err
	}
	return &Model{newHandle(id, func(id C.uintptr_t) { C.shim_unload(id) })}, nil
}

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

// Options of an answer. Temperature 0 is greedy; the same seed gives the same text.
type Options struct {
	MaxTokens   int // 1 to 2048
	Temperature float32
	Seed        uint64
}

// Start begins an answer.
func (m *Model) Start(prompt string, o Options) (*Inference, error) {
	defer runtime.KeepAlive(m.handle)
	text, err := cString("the prompt", prompt)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	var id C.uintptr_t
	err = call(func(code *C.int) {
		id = C.shim_start(m.id, text, C.int(o.MaxTokens), C.float(o.Temperature), C.uint64_t(o.Seed), code)
	})
	if err != nil {
		return nil, err
	}
	return &Inference{newHandle(id, func(id C.uintptr_t) { C.shim_free(id) })}, nil
}

// Piece is a part of an answer: whole UTF-8, never empty. Index counts 0, 1, 2, …
type Piece struct {
	Text  string
	Index int
}

// Inference is an answer in the making. Close cancels it.
type Inference struct{ *handle }

// longest is the largest buffer that is tried for a piece.
const longest = 1 << 20

// Next waits for the next piece; io.EOF says that the answer has ended. When ctx is done first, the answer is
// cancelled and ctx's error returned.
func (i *Inference) Next(ctx context.Context) (Piece, error) {
	if err := ctx.Err(); err != nil {
		i.Close()
		return Piece{}, err
	}
	if ctx.Done() == nil {
		return i.next()
	}
	type outcome struct {
		piece Piece
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		piece, err := i.next()
		done <- outcome{piece, err}
	}()
	select {
	case o := <-done:
		return o.piece, o.err
	case <-ctx.Done():
		// Freed, the call in flight ends within the step in flight.
		i.Close()
		<-done
		return Piece{}, ctx.Err()
	}
}

func (i *Inference) next() (Piece, error) {
	defer runtime.KeepAlive(i.handle)
	for size := 256; ; size *= 4 {
		buffer := make([]byte, size)
		var index C.int
		var more C.bool
		err := call(func(code *C.int) {
			more = C.shim_next(i.id, (*C.char)(unsafe.Pointer(&buffer[0])), C.int(size), &index, code)
		})
		if err == nil && !bool(more) {
			return Piece{}, io.EOF
		}
		if err == nil {
			return Piece{Text: string(buffer[:bytes.IndexByte(buffer, 0)]), Index: int(index)}, nil
		}
		// A piece that does not fit is not lost: it is asked for again, with more room.
		if err.(*Error).Code != InvalidParameter || i.closed.Load() || size >= longest {
			return Piece{}, err
		}
	}
}

// Text pulls the rest of the answer.
func (i *Inference) Text(ctx context.Context) (string, error) {
	var text strings.Builder
	for {
		piece, err := i.Next(ctx)
		if err == io.EOF {
			return text.String(), nil
		}
		if err != nil {
			return text.String(), err
		}
		text.WriteString(piece.Text)
	}
}
