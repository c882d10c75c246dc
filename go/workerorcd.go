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
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"
)

// DeviceCount is the number of devices: 0 without a driver. WORKER_ORCD_DEVICE=cpu makes the host the one device.
func DeviceCount() int { return int(C.cuda_get_device_count()) }

// Version is the library's version, such as "0.1.0".
func Version() string { return C.GoString(C.worker_orcd_version()) }

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
	return c.LoadWith(context.Background(), path, LoadOptions{})
}

// LoadWith does so with options. When ctx is done first, the load ends and ctx's error is returned.
func (c *Context) LoadWith(ctx context.Context, path string, o LoadOptions) (*Model, error) {
	defer runtime.KeepAlive(c.handle)
	text, err := cString("the path", path)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(text))
	watch := newWatch(ctx, o.Progress)
	defer watch.end()
	var id C.uintptr_t
	err = call(func(code *C.int) {
		id = C.shim_load(c.id, text, C.uint32_t(o.Context), C.uint32_t(o.Sequences), C.int32_t(o.KV), watch.user(), code)
	})
	if cause := watch.cause(); err != nil && cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	return &Model{newHandle(id, func(id C.uintptr_t) { C.shim_unload(id) })}, nil
}
