package kernellog

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine bounds how much of a line is looked at. The kernel's have some 1000 bytes; what carries them adds to that.
const maxLine = 64 << 10

// Read hands a whole log to the Parser and ends it. On an error the kills up to there have been handed out.
func (p *Parser) Read(r io.Reader) error {
	defer p.End()
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			p.unexplained.Cut++
			line = bytes.Clone(line) // what follows is read over it
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
		}
		if len(line) > 0 {
			p.Line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
