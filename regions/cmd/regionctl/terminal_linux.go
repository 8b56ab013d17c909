package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// readUnseen reads a line that the terminal does not show. When ctx ends first, what reads stays until the program ends: nothing can call it back.
func readUnseen(ctx context.Context, terminal *os.File) (line string, err error) {
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("looking at the terminal: %w", err)
	}
	unseen := *before
	unseen.Lflag &^= unix.ECHO
	unseen.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &unseen); err != nil {
		return "", fmt.Errorf("setting the terminal: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, before)) }()
	type typed struct {
		line string
		err  error
	}
	done := make(chan typed, 1)
	go func() {
		line, err := readLine(terminal)
		done <- typed{line, err}
	}()
	select {
	case t := <-done:
		return t.line, t.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// readLine takes nothing of what comes after the line.
func readLine(in io.Reader) (string, error) {
	var text strings.Builder
	for b := make([]byte, 1); ; {
		n, err := in.Read(b)
		switch {
		case n == 1 && b[0] == '\n', errors.Is(err, io.EOF) && text.Len() > 0:
			return text.String(), nil
		case n == 1:
			text.WriteByte(b[0])
		case err != nil:
			return "", err
		}
	}
}
