package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
)

func newLog(t *testing.T, format string) (*Log, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	l, err := NewLog(LogConfig{Output: &out, Format: format, Level: zapcore.InfoLevel, GRPCLevel: zapcore.ErrorLevel})
	if err != nil {
		t.Fatal(err)
	}
	return l, &out
}

func TestLog_JSON(t *testing.T) {
	l, out := newLog(t, "")
	l.Info("hello", zap.Int64(AgentID, 7), zap.Error(errors.New("bad")))
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	when, _ := got["time"].(string)
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d{4})$`).MatchString(when) {
		t.Errorf("time is %q", when)
	}
	delete(got, "time")
	want := map[string]any{"level": "info", "msg": "hello", "agent_id": 7.0, "error": "bad"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLog_Console(t *testing.T) {
	l, out := newLog(t, FormatConsole)
	l.Warn("hello")
	if !strings.HasSuffix(out.String(), "\twarn\thello\n") {
		t.Errorf("got %q", out)
	}
}

func TestLog_UnknownFormat(t *testing.T) {
	if _, err := NewLog(LogConfig{Format: "xml"}); err == nil {
		t.Error("accepted")
	}
}

func TestLog_LevelsChangeLive(t *testing.T) {
	l, out := newLog(t, "")
	l.Debug("one")
	l.Level.SetLevel(zapcore.DebugLevel)
	l.Debug("two")
	if s := out.String(); strings.Contains(s, "one") || !strings.Contains(s, "two") {
		t.Errorf("got %s", s)
	}
}

func TestLog_TakesOverLibraries(t *testing.T) {
	l, out := newLog(t, "")
	l.TakeOverLibraries()
	defer klog.ClearLogger()
	grpc := grpclog.Component("transport")
	grpc.Info("quiet")
	l.GRPCLevel.SetLevel(zapcore.InfoLevel)
	grpc.Info("loud")
	klog.InfoS("from kubernetes", "pod", "a/b", "odd")
	klog.ErrorS(errors.New("broken"), "failed")
	klog.Background().WithName("part").WithValues("k", 1).Info("named")
	klog.V(6).Info("headers")
	s := out.String()
	for _, want := range []string{
		`loud","mod_name":"grpc"`, `"msg":"from kubernetes","mod_name":"kubernetes","pod":"a/b"`, `"msg":"failed","mod_name":"kubernetes","error":"broken"`,
		`"msg":"named","mod_name":"kubernetes","logger":"part","k":"1"`,
	} {
		if !strings.Contains(s, want) {
			t.Errorf("no %s in %s", want, s)
		}
	}
	for _, not := range []string{"quiet", "headers"} {
		if strings.Contains(s, not) {
			t.Errorf("%s in %s", not, s)
		}
	}
}

type level string

func (l level) String() string { return string(l) }

func TestParseLevel(t *testing.T) {
	for in, want := range map[fmt.Stringer]zapcore.Level{
		agentcfg.LogLevelEnum_info: zapcore.InfoLevel, agentcfg.LogLevelEnum_debug: zapcore.DebugLevel,
		kascfg.LogLevelEnum_warn: zapcore.WarnLevel, kascfg.LogLevelEnum_error: zapcore.ErrorLevel,
	} {
		if got, err := ParseLevel(in); err != nil || got != want {
			t.Errorf("%v: %v, %v", in, got, err)
		}
	}
	for _, bad := range []level{"7", "panic", "fatal", "loud"} {
		if _, err := ParseLevel(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
