// Command example streams an answer: example MODEL PROMPT. Interrupting it cancels the answer.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"workerorcd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: example MODEL PROMPT")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := answer(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(ctx context.Context, path, prompt string) error {
	device, err := workerorcd.NewContext(0)
	if err != nil {
		return err
	}
	defer device.Close()
	fmt.Fprintf(os.Stderr, "loading %s ...\n", path)
	model, err := device.Load(path)
	if err != nil {
		return err
	}
	defer model.Close()
	inference, err := model.Start(prompt, workerorcd.Options{MaxTokens: 128})
	if err != nil {
		return err
	}
	defer inference.Close()
	for {
		piece, err := inference.Next(ctx)
		if err == io.EOF {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Print(piece.Text)
	}
}
