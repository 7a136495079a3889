package httpgrpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/frame"
)

// requestFrames reads HttpRequest frames and holds them to their order: header, data*, trailer, then the half-close or, for an
// upgrade, upgradeData*. A breach of the order is a status InvalidArgument or Internal.
type requestFrames struct {
	stream Receiver
	// upgrade says that the requester asked for one; set once the header is known.
	upgrade bool
	// noBody: the header promised that no data follows.
	noBody bool
	// trailer has been read.
	trailer bool
}

// header reads the first frame.
func (f *requestFrames) header(limit int) (*requestHead, error) {
	msg, err := f.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, status.Error(codes.InvalidArgument, "request ended before its header")
	}
	if err != nil {
		return nil, err
	}
	defer msg.Free()
	member, err := frame.Member(msg, frame.HTTPUpgradeData)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: %v", err)
	}
	if member != frame.HTTPHeader {
		return nil, status.Errorf(codes.InvalidArgument, "HttpRequest starts with %s, not with header", memberName(member))
	}
	if msg.Len() > limit {
		return nil, status.Errorf(codes.InvalidArgument, "request header has %d bytes, at most %d are accepted", msg.Len(), limit)
	}
	head, err := readRequestHead(msg)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "invalid HttpRequest: header is malformed")
	}
	return head, nil
}

// next reads a frame after the header. The payload of data and upgradeData belongs to the caller. io.EOF: the requester has
// half-closed where it may.
func (f *requestFrames) next() (protowire.Number, mem.BufferSlice, error) {
	msg, err := f.stream.Recv()
	if errors.Is(err, io.EOF) {
		if !f.trailer {
			return 0, nil, status.Error(codes.InvalidArgument, "request ended before its trailer")
		}
		return 0, nil, io.EOF
	}
	if err != nil {
		return 0, nil, err
	}
	member, err := frame.Member(msg, frame.HTTPUpgradeData)
	if err != nil {
		msg.Free()
		return 0, nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: %v", err)
	}
	if err := f.check(member); err != nil {
		msg.Free()
		return 0, nil, err
	}
	if member == frame.HTTPTrailer {
		msg.Free()
		f.trailer = true
		return member, nil, nil
	}
	payload, err := frame.Unwrap(msg, member)
	if err != nil {
		return 0, nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: %v", err)
	}
	return member, payload, nil
}

// check says whether member may come now.
func (f *requestFrames) check(member protowire.Number) error {
	switch {
	case member == frame.HTTPData && !f.trailer && f.noBody:
		return status.Error(codes.Internal, "unexpected HttpRequest_Data message received")
	case member == frame.HTTPUpgradeData && f.trailer && !f.upgrade:
		return status.Error(codes.Internal, "unexpected HttpRequest_UpgradeData message received")
	case (member == frame.HTTPData || member == frame.HTTPTrailer) && !f.trailer,
		member == frame.HTTPUpgradeData && f.trailer:
		return nil
	case f.trailer:
		return status.Errorf(codes.InvalidArgument, "HttpRequest has %s after its trailer", memberName(member))
	default:
		return status.Errorf(codes.InvalidArgument, "HttpRequest has %s before its trailer", memberName(member))
	}
}

// end reads what follows a request without a body: the trailer and, unless an upgrade is asked for, the half-close.
func (f *requestFrames) end() error {
	for !f.trailer {
		if _, _, err := f.next(); err != nil {
			return err
		}
	}
	if f.upgrade {
		return nil
	}
	return f.halfClose()
}

// halfClose waits for the end of a request that is not an upgrade.
func (f *requestFrames) halfClose() error {
	_, _, err := f.next()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err // a frame after the trailer never passes check here
}

// newRequest builds the request without its body. What a requester may not say is a status InvalidArgument.
func newRequest(ctx context.Context, head *requestHead) (*http.Request, error) {
	if !head.present {
		return nil, status.Error(codes.InvalidArgument, "invalid HttpRequest: header has no request")
	}
	if !strings.HasPrefix(head.path, "/") {
		return nil, status.Error(codes.InvalidArgument, "invalid HttpRequest: url_path does not start with a slash")
	}
	if head.length != nil && *head.length < -1 {
		return nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: content_length %d", *head.length)
	}
	if head.headerErr != nil {
		return nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: %v", head.headerErr)
	}
	if head.method == "" {
		return nil, status.Error(codes.InvalidArgument, "invalid HttpRequest: no method")
	}
	req, err := http.NewRequestWithContext(ctx, head.method, "/", http.NoBody)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "invalid HttpRequest: method %q", shorten(head.method))
	}
	req.URL = &url.URL{Path: head.path, RawQuery: head.query.Encode()}
	req.Header = head.header
	return req, nil
}

func memberName(member protowire.Number) string {
	switch member {
	case frame.HTTPHeader:
		return "header"
	case frame.HTTPData:
		return "data"
	case frame.HTTPTrailer:
		return "trailer"
	default:
		return "upgradeData"
	}
}
