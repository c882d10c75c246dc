package workerorcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// tiny is a model with random weights; WORKER_ORCD_GOLDENS names its folder.
func tiny(t *testing.T) string {
	t.Helper()
	return filepath.Join(os.Getenv("WORKER_ORCD_GOLDENS"), "llama-f32.gguf")
}

func open(t *testing.T) (*Context, *Model) {
	t.Helper()
	device, err := NewContext(0)
	if err != nil {
		t.Fatal(err)
	}
	model, err := device.Load(tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		model.Close()
		device.Close()
	})
	return device, model
}

func text(t *testing.T, model *Model, prompt string, o Options) string {
	t.Helper()
	inference, err := model.Start(prompt, o)
	if err != nil {
		t.Fatal(err)
	}
	defer inference.Close()
	whole, err := inference.Text(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

func TestPieces(t *testing.T) {
	_, model := open(t)
	inference, err := model.Start("Hello, world", Options{MaxTokens: 16})
	if err != nil {
		t.Fatal(err)
	}
	for expected := 0; ; expected++ {
		piece, err := inference.Next(context.Background())
		if err == io.EOF {
			if expected == 0 {
				t.Fatal("no piece at all")
			}
			break
		}
		if err != nil || piece.Index != expected || piece.Text == "" {
			t.Fatalf("piece %d: %+v, %v", expected, piece, err)
		}
	}
	if _, err := inference.Next(context.Background()); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
}

func TestErrorsHaveCodeAndReason(t *testing.T) {
	device, model := open(t)
	_, err := NewContext(-3)
	check(t, err, InvalidDevice, "-3")
	_, err = device.Load("/nowhere/lost.gguf")
	check(t, err, ModelLoadFailed, "lost.gguf")
	_, err = device.Load("a\x00b")
	check(t, err, InvalidParameter, "NUL")
	_, err = model.Start("Hello", Options{MaxTokens: -1})
	check(t, err, InvalidParameter, "")
	_, err = model.Start("\xff", Options{MaxTokens: 4})
	check(t, err, InvalidParameter, "")
}

func check(t *testing.T, err error, code Code, reason string) {
	t.Helper()
	var typed *Error
	if !errors.As(err, &typed) || typed.Code != code || !strings.Contains(typed.Reason, reason) {
		t.Fatalf("%v is not %d with %q", err, code, reason)
	}
	if !errors.Is(err, &Error{Code: code}) || errors.Is(err, &Error{Code: Unknown}) {
		t.Fatalf("errors.Is is wrong about %v", err)
	}
}

func TestCloseTwiceAndInAnyOrder(t *testing.T) {
	device, model := open(t)
	inference, err := model.Start("Hello", Options{MaxTokens: 200, Temperature: 1})
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	device.Close()
	if _, err := inference.Next(context.Background()); err != nil {
		t.Fatal(err)
	}
	check(t, device.CheckHealth(), InvalidParameter, "")
	model.Close()
	model.Close()
	_, err = inference.Next(context.Background())
	check(t, err, InvalidParameter, "")
	inference.Close()
	inference.Close()
}

func TestManyGoroutines(t *testing.T) {
	_, model := open(t)
	var alone [16]string
	options := func(n int) Options { return Options{MaxTokens: 4 + n, Temperature: 1, Seed: uint64(n)} }
	for n := range alone {
		alone[n] = text(t, model, "Hello", options(n))
	}
	var wait sync.WaitGroup
	failed := make(chan string, len(alone))
	for n := range alone {
		wait.Add(1)
		go func(n int) {
			defer wait.Done()
			inference, err := model.Start("Hello", options(n))
			if err != nil {
				failed <- err.Error()
				return
			}
			defer inference.Close()
			if whole, err := inference.Text(context.Background()); err != nil || whole != alone[n] {
				failed <- fmt.Sprintf("%d: %q, not %q (%v)", n, whole, alone[n], err)
			}
		}(n)
	}
	wait.Wait()
	close(failed)
	for message := range failed {
		t.Error(message)
	}
}

func TestCancel(t *testing.T) {
	_, model := open(t)
	inference, err := model.Start("Hello", Options{MaxTokens: 400, Temperature: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := inference.Next(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := inference.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("after cancel: %v", err)
	}
	if _, err = inference.Next(context.Background()); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
	if s, err := inference.Statistics(); err != nil || s.Finish != FinishCancel {
		t.Fatalf("%+v, %v", s, err)
	}
	inference.Close()
	check(t, inference.Cancel(), InvalidParameter, "")

	// While pieces are being pulled.
	inference, err = model.Start("Hello", Options{MaxTokens: 400, Temperature: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 3*time.Millisecond)
	defer cancel()
	if _, err := inference.Text(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("after a deadline: %v", err)
	}
}

func TestWhatIsNeverClosedIsCollected(t *testing.T) {
	device, model := open(t)
	held := device.ProcessVRAM()
	if held < model.VRAM() || model.VRAM() == 0 || model.CheckResidency() != nil {
		t.Fatalf("%d bytes held, %d by the model", held, model.VRAM())
	}
	for n := 0; n < 3; n++ {
		if _, err := device.Load(tiny(t)); err != nil {
			t.Fatal(err)
		}
	}
	for try := 0; device.ProcessVRAM() > held; try++ {
		if try == 500 {
			t.Fatalf("%d bytes are still held, not %d", device.ProcessVRAM(), held)
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	if DeviceCount() < 1 {
		t.Fatal("no device")
	}
}
