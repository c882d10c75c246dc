package workerorcd

/*
#include "shim.h"
*/
import "C"

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"time"
	"unsafe"
)

// Piece is a part of an answer: whole UTF-8, never empty. Index counts 0, 1, 2, …
type Piece struct {
	Text  string
	Index int
}

// Inference is an answer in the making. Close ends it, too.
type Inference struct{ *handle }

// longest is the largest buffer that is tried for a piece.
const longest = 1 << 20

// Next waits for the next piece; io.EOF says that the answer has ended. When ctx is done first, the answer is
// cancelled and ctx's error returned.
func (i *Inference) Next(ctx context.Context) (Piece, error) {
	if err := ctx.Err(); err != nil {
		i.Cancel()
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
		// Cancelled, the call in flight ends within the step in flight.
		i.Cancel()
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

// Cancel ends the answer where it is, from any goroutine: Next then gives io.EOF. What is known of it stays.
func (i *Inference) Cancel() error {
	defer runtime.KeepAlive(i.handle)
	return call(func(code *C.int) { C.shim_cancel(i.id, code) })
}

// Finish is why an answer ended.
type Finish int

const (
	NotFinished    Finish = 0
	FinishEndToken Finish = 1 // the model ended it
	FinishStop     Finish = 2 // one of Options.Stops
	FinishLength   Finish = 3 // MaxTokens
	FinishContext  Finish = 4 // the context is full
	FinishCancel   Finish = 5
	FinishFailed   Finish = 6
)

var finishes = [...]string{"not finished", "end token", "stop string", "length", "context", "cancelled", "failed"}

// String says it in words.
func (f Finish) String() string {
	if f < 0 || int(f) >= len(finishes) {
		return "unknown"
	}
	return finishes[f]
}

// Statistics are what an answer has come to so far.
type Statistics struct {
	PromptTokens int
	ReusedTokens int // of these, tokens that did not have to be computed, since another prompt began alike
	Tokens       int // of the answer
	UntilFirst   time.Duration
	UntilLast    time.Duration // until the last token so far
	Finish       Finish
}

// Statistics never waits for the answer.
func (i *Inference) Statistics() (Statistics, error) {
	defer runtime.KeepAlive(i.handle)
	var raw C.worker_orcd_statistics
	if err := call(func(code *C.int) { C.shim_statistics(i.id, &raw, code) }); err != nil {
		return Statistics{}, err
	}
	return Statistics{
		PromptTokens: int(raw.prompt_tokens),
		ReusedTokens: int(raw.reused_tokens),
		Tokens:       int(raw.tokens),
		UntilFirst:   time.Duration(raw.first_token_ns),
		UntilLast:    time.Duration(raw.last_token_ns),
		Finish:       Finish(raw.finish),
	}, nil
}

// Token is one of an answer's; Logprob is NaN without Options.Logprobs.
type Token struct {
	ID      uint32
	Logprob float32
}

// Tokens gives the answer's tokens from the one numbered from on, as far as their text was pulled or is held back.
func (i *Inference) Tokens(from int) ([]Token, error) {
	defer runtime.KeepAlive(i.handle)
	if from < 0 {
		return nil, &Error{Code: InvalidParameter, Reason: "a negative number of a token"}
	}
	var count C.size_t
	err := call(func(code *C.int) { count = C.shim_tokens(i.id, C.size_t(from), nil, nil, 0, code) })
	if err != nil || count == 0 {
		return nil, err
	}
	ids, logprobs := make([]uint32, count), make([]float32, count)
	// There may be more by now; those are for the next time.
	err = call(func(code *C.int) {
		C.shim_tokens(i.id, C.size_t(from), first(ids), (*C.float)(unsafe.Pointer(&logprobs[0])), count, code)
	})
	if err != nil {
		return nil, err
	}
	all := make([]Token, count)
	for n := range all {
		all[n] = Token{ids[n], logprobs[n]}
	}
	return all, nil
}
