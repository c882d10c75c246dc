package workerorcd

/*
#include "worker_orcd.h"
*/
import "C"

import "fmt"

// Code is one of the library's error codes.
type Code int

const (
	InvalidDevice       Code = 1
	OutOfMemory         Code = 2
	ModelLoadFailed     Code = 3
	InferenceFailed     Code = 4
	InvalidParameter    Code = 5
	KernelLaunchFailed  Code = 6
	VRAMResidencyFailed Code = 7
	DeviceNotFound      Code = 8
	Unknown             Code = 99
)

// String says what the code means.
func (c Code) String() string { return C.GoString(C.cuda_error_message(C.int(c))) }

// Error is what a call gives: the code, and the reason in words.
type Error struct {
	Code   Code
	Reason string
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return e.Code.String()
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Reason)
}

// Is makes errors.Is(err, &Error{Code: c}) true for every error of that code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code && (other.Reason == "" || other.Reason == e.Reason)
}
