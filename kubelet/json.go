package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The kubelet's lists can be large (500 pods are some 5 MB), so they are read value by value: what is not asked for is
// skipped, and only one pod's text is in memory at a time.

// document reads one JSON object and nothing behind it.
func document(r io.Reader, member func(dec *json.Decoder, key string) error) error {
	dec := json.NewDecoder(r)
	if err := object(dec, member); err != nil {
		return unexpected(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("there is more behind the end of the JSON")
		}
		return err
	}
	return nil
}

// object hands each key of an object to member, which decodes the value.
func object(dec *json.Decoder, member func(dec *json.Decoder, key string) error) error {
	if err := opens(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		if err := member(dec, key.(string)); err != nil { // the Decoder takes nothing else for a key
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// list decodes an array, which may be null, with an element at a time.
func list[T any](dec *json.Decoder, each func(*T) error) error {
	t, err := dec.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("there is %v where a list is expected", t)
	}
	for n := 0; dec.More(); n++ {
		var element T
		if err = dec.Decode(&element); err == nil {
			err = each(&element)
		}
		if err != nil {
			return fmt.Errorf("element %d of the list: %w", n, err)
		}
	}
	_, err = dec.Token()
	return err
}

func opens(dec *json.Decoder, delim json.Delim) error {
	t, err := dec.Token()
	if err == nil && t != delim {
		err = fmt.Errorf("there is %v where %v is expected", t, delim)
	}
	return err
}

// skip reads a value that nobody needs.
func skip(dec *json.Decoder) error {
	var nobody struct{}
	err := dec.Decode(&nobody)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok { // it was no object, and was read all the same
		return nil
	}
	return err
}

// unexpected makes an end within a document the error that it is.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
