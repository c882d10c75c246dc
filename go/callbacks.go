package workerorcd

/*
#include "shim.h"
*/
import "C"

import (
	"context"
	"runtime/cgo"
	"sync/atomic"
)

// watch is what the library's progress function asks: whether the load goes on.
type watch struct {
	ctx      context.Context
	progress func(done, all uint64) bool
	handle   cgo.Handle
	// What progress panicked with: a panic must not pass through C.
	panicked any
	ended    bool
}

func newWatch(ctx context.Context, progress func(done, all uint64) bool) *watch {
	w := &watch{ctx: ctx, progress: progress}
	w.handle = cgo.NewHandle(w)
	return w
}

func (w *watch) user() C.uintptr_t { return C.uintptr_t(w.handle) }

func (w *watch) end() {
	w.handle.Delete()
	if w.panicked != nil {
		panic(w.panicked)
	}
}

// cause is why the load was ended from here, where it was ctx.
func (w *watch) cause() error {
	if w.ended {
		return w.ctx.Err()
	}
	return nil
}

func (w *watch) goesOn(done, all uint64) (on bool) {
	defer func() {
		if w.panicked = recover(); w.panicked != nil {
			on = false
		}
	}()
	if w.ctx.Err() != nil {
		w.ended = true
		return false
	}
	return w.progress == nil || w.progress(done, all)
}

//export workerOrcdProgress
func workerOrcdProgress(user C.uintptr_t, done, all C.uint64_t) C.bool {
	return C.bool(cgo.Handle(user).Value().(*watch).goesOn(uint64(done), uint64(all)))
}

// LogLevel is how grave a message is; each level includes those above it.
type LogLevel int

const (
	LogOff   LogLevel = 0
	LogError LogLevel = 1
	LogWarn  LogLevel = 2
	LogInfo  LogLevel = 3
	LogDebug LogLevel = 4
)

// logger is where messages go; the library calls it from any thread.
var logger atomic.Pointer[func(LogLevel, string)]

// SetLog has the library's messages of that level and graver ones sent to f, or, with nil, to nobody again. Once it
// returns, the function given before is not called any more. It cannot be called from inside f, which must not panic.
func SetLog(f func(level LogLevel, message string), level LogLevel) error {
	before := logger.Load()
	now := &f
	if f == nil {
		now = before
	}
	logger.Store(now)
	err := call(func(code *C.int) { C.shim_set_log(C.bool(f != nil), C.int(level), code) })
	if err != nil {
		logger.CompareAndSwap(now, before)
	}
	return err
}

//export workerOrcdLog
func workerOrcdLog(level C.int, message *C.char) {
	if f := logger.Load(); f != nil {
		(*f)(LogLevel(level), C.GoString(message))
	}
}
