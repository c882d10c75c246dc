package workerorcd

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

var plain = Options{MaxTokens: 16, Temperature: 1, Seed: 7}

func TestStatistics(t *testing.T) {
	_, model := open(t)
	inference, err := model.Start("Hello, world", plain)
	if err != nil {
		t.Fatal(err)
	}
	defer inference.Close()
	if _, err := inference.Text(context.Background()); err != nil {
		t.Fatal(err)
	}
	s, err := inference.Statistics()
	if err != nil || s.PromptTokens < 1 || s.ReusedTokens > s.PromptTokens || s.UntilFirst <= 0 || s.UntilLast < s.UntilFirst {
		t.Fatalf("%+v, %v", s, err)
	}
	if s.Finish != FinishLength && s.Finish != FinishEndToken || s.Tokens > 16 || s.Finish.String() == "unknown" {
		t.Fatalf("%+v", s)
	}
	tokens, err := inference.Tokens(0)
	if err != nil || len(tokens) != s.Tokens || !math.IsNaN(float64(tokens[0].Logprob)) {
		t.Fatalf("%v, %v", tokens, err)
	}
}

func TestSampling(t *testing.T) {
	_, model := open(t)
	all := plain
	all.TopK, all.TopP, all.MinP = 20, 0.9, 0.01
	all.RepetitionPenalty, all.FrequencyPenalty, all.PresencePenalty = 1.2, 0.5, 0.5
	all.Logprobs = true
	sampled, err := model.Start("Hello, world", all)
	if err != nil {
		t.Fatal(err)
	}
	defer sampled.Close()
	if _, err := sampled.Text(context.Background()); err != nil {
		t.Fatal(err)
	}
	tokens, err := sampled.Tokens(1)
	if err != nil || len(tokens) == 0 {
		t.Fatalf("%v, %v", tokens, err)
	}
	for _, token := range tokens {
		if !(token.Logprob <= 0) {
			t.Fatalf("%+v", token)
		}
	}
}

func TestStops(t *testing.T) {
	_, model := open(t)
	whole := text(t, model, "Hello, world", plain)
	half := len(whole) / 2
	for !utf8.RuneStart(whole[half]) {
		half--
	}
	stopped := plain
	stopped.Stops = []string{"this does not come", whole[:half]}
	if got := text(t, model, "Hello, world", stopped); got != "" {
		t.Fatalf("%q before its own beginning", got)
	}
	for _, wrong := range []Options{{TopK: -1}, {TopP: 2}, {Stops: []string{"a\x00"}}, {Stops: []string{""}}, {MinP: -1}} {
		_, err := model.Start("Hello", wrong)
		check(t, err, InvalidParameter, "")
	}
}

func TestTokens(t *testing.T) {
	_, model := open(t)
	prompt := "Hello, naïve world"
	ids, err := model.Tokenize(prompt, true, true)
	if err != nil || len(ids) == 0 {
		t.Fatalf("%v, %v", ids, err)
	}
	bare, err := model.Tokenize(prompt, false, false)
	if err != nil || len(bare) > len(ids) {
		t.Fatalf("%v, %v", bare, err)
	}
	if back, err := model.Detokenize(bare); err != nil || back != prompt {
		t.Fatalf("%q, %v", back, err)
	}
	if back, err := model.Detokenize(nil); err != nil || back != "" {
		t.Fatalf("%q, %v", back, err)
	}
	inference, err := model.StartTokens(ids, Options{MaxTokens: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer inference.Close()
	by, err := inference.Text(context.Background())
	if err != nil || by != text(t, model, prompt, Options{MaxTokens: 8}) {
		t.Fatalf("%q, %v", by, err)
	}
	_, err = model.StartTokens(nil, Options{})
	check(t, err, InvalidParameter, "")
	_, err = model.StartTokens([]uint32{math.MaxUint32}, Options{})
	check(t, err, InvalidParameter, "")
	_, err = model.Tokenize("a\x00b", true, true)
	check(t, err, InvalidParameter, "NUL")
	_, err = model.Detokenize([]uint32{math.MaxUint32})
	check(t, err, InvalidParameter, "")
}

func TestLoadWithOptions(t *testing.T) {
	device, _ := open(t)
	messages := make(chan string, 100)
	log := func(level LogLevel, message string) {
		select {
		case messages <- message:
		default:
		}
	}
	if err := SetLog(log, LogInfo); err != nil {
		t.Fatal(err)
	}
	var done, all uint64
	progress := func(d, a uint64) bool {
		done, all = d, a
		return true
	}
	options := LoadOptions{Progress: progress, Context: 100, Sequences: 2, KV: KVF16}
	model, err := device.LoadWith(context.Background(), tiny(t), options)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	if err := SetLog(nil, LogOff); err != nil {
		t.Fatal(err)
	}
	if done == 0 || done != all || !strings.Contains(<-messages, "llama") {
		t.Fatalf("%d of %d bytes", done, all)
	}
	check(t, SetLog(log, 9), InvalidParameter, "")
	facts, err := model.Facts()
	if err != nil || facts.Family != "llama" || facts.Context != 100 || facts.Vocabulary < 1 || facts.EOS < 0 {
		t.Fatalf("%+v, %v", facts, err)
	}
	if template, err := model.ChatTemplate(); err != nil || len(template) > 100000 {
		t.Fatalf("%q, %v", template, err)
	}
}

func TestALoadCanBeEnded(t *testing.T) {
	device, _ := open(t)
	_, err := device.LoadWith(context.Background(), tiny(t), LoadOptions{Progress: func(d, a uint64) bool { return false }})
	check(t, err, ModelLoadFailed, "")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := device.LoadWith(ctx, tiny(t), LoadOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	defer func() {
		if recover() != "from inside" {
			t.Fatal("the panic is lost")
		}
	}()
	device.LoadWith(context.Background(), tiny(t), LoadOptions{Progress: func(d, a uint64) bool { panic("from inside") }})
}

func TestVersion(t *testing.T) {
	if strings.Count(Version(), ".") != 2 {
		t.Fatal(Version())
	}
}
