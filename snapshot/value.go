package snapshot

import (
	"bytes"
	"fmt"
	"strconv"
)

// Value is a quantity as the kernel gives it, in one of three states: absent (the kernel, this version or our rights do not
// give it), unlimited ("max", or v1's huge number), or a number. The zero Value is absent.
type Value struct {
	// 0 is absent, all ones unlimited, anything else the number plus one: eight bytes, and the zero value means absent. The
	// two numbers that do not fit stand for no amount of memory.
	enc uint64
}

// Unlimited is the value of a limit that does not limit.
var Unlimited = Value{^uint64(0)}

// Of is the Value of a known number.
func Of(n uint64) Value {
	if n >= ^uint64(0)-1 {
		return Unlimited
	}
	return Value{n + 1}
}

// Get returns the number, and whether there is one: false where the value is absent or unlimited.
func (v Value) Get() (uint64, bool) {
	if v.enc == 0 || v == Unlimited {
		return 0, false
	}
	return v.enc - 1, true
}

// IsAbsent tells that nothing is known.
func (v Value) IsAbsent() bool { return v.enc == 0 }

// IsUnlimited tells that the kernel said there is no limit.
func (v Value) IsUnlimited() bool { return v == Unlimited }

// IsZero is IsAbsent, for encoding/json's omitzero: an absent value is left out, a zero is written.
func (v Value) IsZero() bool { return v.IsAbsent() }

// String is the number, "max", or "absent".
func (v Value) String() string {
	if n, ok := v.Get(); ok {
		return strconv.FormatUint(n, 10)
	}
	if v.IsUnlimited() {
		return "max"
	}
	return "absent"
}

// MarshalJSON writes a number, "max", or null.
func (v Value) MarshalJSON() ([]byte, error) {
	if n, ok := v.Get(); ok {
		return strconv.AppendUint(nil, n, 10), nil
	}
	if v.IsUnlimited() {
		return []byte(`"max"`), nil
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Value) UnmarshalJSON(b []byte) error {
	switch {
	case bytes.Equal(b, []byte("null")):
		*v = Value{}
	case bytes.Equal(b, []byte(`"max"`)):
		*v = Unlimited
	default:
		n, err := strconv.ParseUint(string(b), 10, 64)
		if err != nil {
			return fmt.Errorf("a value is a number, \"max\" or null, not %.40s", b)
		}
		*v = Of(n)
	}
	return nil
}
