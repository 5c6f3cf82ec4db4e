package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/memrecon/memrecon/leak"
	"github.com/memrecon/memrecon/snapshot"
)

type leakCommand struct {
	Procfs string `name:"path.procfs" default:"/proc" placeholder:"DIR" help:"Where procfs is mounted (${default})."`
	Sysfs  string `name:"path.sysfs" default:"/sys" placeholder:"DIR" help:"Where sysfs is mounted (${default})."`

	Kind    leak.Kind `default:"anon" help:"What is taken: ${leak_kinds} (${default})." group:"What"`
	Max     *size     `placeholder:"SIZE" help:"How much is taken at most, such as 2Gi; 0 for all there is." group:"What"`
	MaxMB   *uint64   `short:"x" name:"max-mb" placeholder:"MB" help:"The same in MiB, rounded up to whole blocks." group:"What"`
	Block   *size     `placeholder:"SIZE" help:"The size of a block (1Mi)." group:"What"`
	BlockMB *uint64   `short:"m" name:"block-mb" placeholder:"MB" help:"The same in MiB." group:"What"`
	Touch   float64   `short:"f" default:"1" placeholder:"RATIO" help:"How much of each block is touched, 0 to 1 (${default})." group:"What"`
	Spread  bool      `help:"Touch pages all over a block in place of its first ones." group:"What"`
	KeepHot bool      `help:"Touch everything again each second, so that it stays active." group:"What"`
	Dir     string    `placeholder:"DIR" help:"Where file has its file, which has no name (the temporary folder), and where tmpfs has its (the kernel's own)." group:"What"`
	Workers int       `default:"1" placeholder:"N" help:"How many threads touch side by side (${default})." group:"What"`

	Shape   leakShape     `enum:"step,ramp,saw,spike" default:"step" help:"step: a block every --every. ramp: a straight line to --max within --period, or at --rate. saw: again and again a straight line from --low to --max within --period. spike: --max for the last tenth of each --period, --low before (${default})." group:"When"`
	Period  time.Duration `placeholder:"TIME" help:"How long a ramp, or one tooth or spike, takes." group:"When"`
	Low     *size         `placeholder:"SIZE" help:"What a saw or spike comes down to (0)." group:"When"`
	Profile string        `type:"existingfile" placeholder:"FILE" help:"Follow a file in place of a shape: a time and a size a line, such as 10s 100Mi, straight lines between." group:"When"`
	Repeat  bool          `help:"Begin the profile again at its end." group:"When"`

	Every        time.Duration `default:"0s" placeholder:"TIME" help:"How long after a block comes the next (${default})." group:"When"`
	EveryMS      *uint64       `short:"e" name:"every-ms" placeholder:"MS" help:"The same in milliseconds." group:"When"`
	Rate         *rate         `placeholder:"SIZE/s" help:"Grow steadily in place of blocks, such as 50Mi/s: a ramp." group:"When"`
	Hold         time.Duration `default:"0s" placeholder:"TIME" help:"How long it is held once --max is reached, 0 for until Ctrl-C or SIGTERM (${default})." group:"When"`
	ReleaseEvery time.Duration `default:"0s" placeholder:"TIME" help:"After --hold give back a block each such time, in place of all at once." group:"When"`
	Wait         bool          `short:"b" help:"Wait for Enter before anything is taken." group:"When"`

	DieAt   *size       `placeholder:"SIZE" help:"End as --die-with says once so much is touched." group:"Ends"`
	DieWith *leak.Death `placeholder:"HOW" help:"SIGSEGV, SIGABRT or exit:N." group:"Ends"`

	Floor       size          `default:"256Mi" placeholder:"SIZE" help:"Stop when the node has less available, 0 for never (${default})." group:"Guards"`
	MaxPressure float64       `default:"50" placeholder:"PERCENT" help:"Stop when for more of the last 10 s nothing could run for want of memory, 0 for never (${default})." group:"Guards"`
	Timeout     time.Duration `default:"1h" placeholder:"TIME" help:"Stop after this time, 0 for never (${default})." group:"Guards"`
	IMeanIt     bool          `name:"i-mean-it" help:"Allow --max 0 where no cgroup has a limit." group:"Guards"`
	OOMScoreAdj string        `name:"oom-score-adj" placeholder:"N" help:"Who dies first, -1000 to 1000; keep for as it is (1000 where permitted)." group:"Guards"`

	StatsEvery int    `short:"p" default:"10" placeholder:"N" help:"After how many blocks the figures are shown, 0 for never (${default})." group:"Output"`
	Output     output `short:"o" enum:"text,json" default:"text" help:"text, or json: one object a line (${default})." group:"Output"`
}

// leakShape is a name of a shape.
type leakShape string

const (
	stepShape  leakShape = "step"
	rampShape  leakShape = "ramp"
	sawShape   leakShape = "saw"
	spikeShape leakShape = "spike"
)

// Help says what the exit statuses mean.
func (c *leakCommand) Help() string {
	return "Exit status: 0 the hold is over, or Ctrl-C, SIGTERM or its parent's end ended it; 1 it could not be done; 2 the command line is wrong; " +
		"3 a guard stopped it; 4 the kernel refused more memory; as --die-with says."
}

// Exit statuses of leak beyond the common ones.
const (
	exitGuard    = 3 // a guard stopped it
	exitNoMemory = 4 // the kernel refused more memory
)

// size is a quantity of memory on the command line.
type size uint64

// UnmarshalText takes Kubernetes' quantities.
func (s *size) UnmarshalText(b []byte) error {
	v, err := snapshot.ParseQuantity(string(b))
	if err != nil {
		return err
	}
	n, _ := v.Get()
	if n >= math.MaxInt64 {
		return fmt.Errorf("%q is 2^63 bytes or more", b)
	}
	*s = size(n)
	return nil
}

// rate is a quantity a second.
type rate uint64

// UnmarshalText takes a quantity with /s behind it.
func (r *rate) UnmarshalText(b []byte) error {
	amount, ok := strings.CutSuffix(string(b), "/s")
	if !ok {
		return fmt.Errorf("%q is no rate: a size a second, such as 50Mi/s", b)
	}
	if err := (*size)(r).UnmarshalText([]byte(amount)); err != nil {
		return err
	}
	if *r == 0 {
		return errors.New("a rate is more than 0")
	}
	return nil
}

// Run takes the memory.
func (c *leakCommand) Run(stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(leak.WhileParentLives(context.Background()), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	config, err := c.config()
	if err != nil {
		return &statusError{err, exitUsage}
	}
	watcher, err := leak.NewWatcher(c.Procfs, c.Sysfs)
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Close() }()
	view := c.view(stdout, config)
	l, err := leak.New(*config, watcher, view.Event)
	if err != nil {
		return err
	}
	plan := l.Plan()
	if config.Max == 0 && !plan.Limited && !c.IMeanIt {
		return &statusError{errors.New("--max 0 takes all of the node's memory, as no cgroup here has a limit: add --i-mean-it, or run it in a cgroup with one"), exitUsage}
	}
	view.Plan(&plan)
	if err := c.setOOMScoreAdj(watcher); err != nil {
		return err
	}
	if c.Wait && !enter(ctx, os.Stderr) {
		return nil
	}
	leak.Trim(c.Procfs)
	switch err := l.Run(ctx); {
	case errors.Is(err, leak.ErrGuard):
		return &statusError{err, exitGuard}
	case errors.Is(err, leak.ErrNoMemory):
		return &statusError{err, exitNoMemory}
	default:
		return err
	}
}

// setOOMScoreAdj sets what was asked for, or 1000 where that is permitted.
func (c *leakCommand) setOOMScoreAdj(w *leak.Watcher) error {
	switch c.OOMScoreAdj {
	case "keep":
		return nil
	case "":
		_ = w.SetOOMScoreAdj("1000")
		return nil
	}
	return w.SetOOMScoreAdj(c.OOMScoreAdj)
}

// enter waits for a line on standard input; false where the context ends first.
func enter(ctx context.Context, prompt io.Writer) bool {
	fmt.Fprintln(prompt, "Waits for Enter.")
	entered := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // its end is an Enter as well
		close(entered)
	}()
	select {
	case <-entered:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *leakCommand) view(stdout io.Writer, config *leak.Config) leak.View {
	lines := leak.Lines{W: stdout, Config: config}
	if c.Output == outputJSON {
		return leak.JSON{W: stdout}
	}
	if f, ok := stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			config.Interval = 200 * time.Millisecond
			return leak.Bar{Lines: lines, Width: width}
		}
	}
	return lines
}

const mib = 1 << 20

// config is what the flags say, or everything that is wrong with them.
func (c *leakCommand) config() (*leak.Config, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	block, err := either("-m", c.BlockMB, "--block", c.Block, mib)
	if err != nil {
		errs = append(errs, err)
	} else if block == 0 {
		wrong("a block is more than 0 bytes")
	}
	if c.Max == nil && c.MaxMB == nil && c.Profile == "" {
		wrong("--max (or -x) is missing: how much to take, 0 for all there is")
	}
	most, err := either("-x", c.MaxMB, "--max", c.Max, 0)
	if err != nil {
		errs = append(errs, err)
	}
	if c.MaxMB != nil && block > 0 {
		most = (most + block - 1) / block * block
	}
	every := c.Every
	if c.EveryMS != nil {
		if c.Every != 0 {
			wrong("-e and --every are the same in other units: one of them")
		}
		if *c.EveryMS > math.MaxInt64/uint64(time.Millisecond) {
			wrong("-e %d is too large", *c.EveryMS)
		} else {
			every = time.Duration(*c.EveryMS) * time.Millisecond
		}
	}
	for _, d := range []struct {
		flag string
		time time.Duration
	}{{"--every", every}, {"--hold", c.Hold}, {"--release-every", c.ReleaseEvery}, {"--timeout", c.Timeout}} {
		if d.time < 0 {
			wrong("%s %s: 0 or more", d.flag, d.time)
		}
	}
	if !(c.Touch >= 0 && c.Touch <= 1) {
		wrong("--touch %g: a share from 0 to 1", c.Touch)
	}
	if c.Workers < 1 || c.Workers > 1024 {
		wrong("--workers %d: 1 to 1024", c.Workers)
	}
	if c.StatsEvery < 0 {
		wrong("--stats-every %d: 0 or more", c.StatsEvery)
	}
	if !(c.MaxPressure >= 0 && c.MaxPressure <= 100) {
		wrong("--max-pressure %g: a percentage from 0 to 100", c.MaxPressure)
	}
	if n, err := strconv.Atoi(c.OOMScoreAdj); c.OOMScoreAdj != "" && c.OOMScoreAdj != "keep" && (err != nil || n < -1000 || n > 1000) {
		wrong("--oom-score-adj %s: -1000 to 1000, or keep", c.OOMScoreAdj)
	}
	if (c.DieAt == nil) != (c.DieWith == nil) {
		wrong("--die-at and --die-with go together")
	}
	if c.DieAt != nil && most > 0 && uint64(*c.DieAt) > most {
		wrong("--die-at is more than --max, so it would never come")
	}
	if c.ReleaseEvery > 0 && c.Hold == 0 {
		wrong("--release-every comes after --hold: say how long that is")
	}
	shape, err := c.shape(block, most, every)
	if err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if curve, ok := shape.(leak.Curve); ok && most == 0 {
		most = curve.Top()
	}
	config := &leak.Config{
		Kind: c.Kind, Shape: shape, Block: block, Max: most, Touch: c.Touch, Spread: c.Spread,
		Dir: c.Dir, Workers: c.Workers, KeepHot: c.KeepHot, Hold: c.Hold, ReleaseEvery: c.ReleaseEvery, StatsEvery: c.StatsEvery, Interval: time.Second,
		Guards: leak.Guards{FloorBytes: uint64(c.Floor), MaxFullPercent: c.MaxPressure, Timeout: c.Timeout},
	}
	if c.DieAt != nil {
		config.DieAt, config.Death = uint64(*c.DieAt), *c.DieWith
	}
	return config, config.Check()
}

// shape is what the flags of time make, or what is wrong with them.
func (c *leakCommand) shape(block, most uint64, every time.Duration) (leak.Shape, error) {
	var low uint64
	if c.Low != nil {
		low = uint64(*c.Low)
	}
	waves := c.Shape == sawShape || c.Shape == spikeShape
	switch {
	case c.Profile != "" && (c.Shape != stepShape || c.Rate != nil || every != 0):
		return nil, errors.New("--profile says all of when: leave --shape, --rate and --every out")
	case c.Repeat && c.Profile == "":
		return nil, errors.New("--repeat is for --profile: saw and spike repeat anyway")
	case c.Rate != nil && every != 0:
		return nil, errors.New("--rate grows steadily and --every in blocks: one of them")
	case c.Rate != nil && (c.Period != 0 || waves):
		return nil, errors.New("--rate is for a ramp without --period")
	case c.Low != nil && !waves:
		return nil, errors.New("--low is for --shape saw and spike")
	case c.Shape != stepShape && every != 0:
		return nil, errors.New("--every is for --shape step")
	case c.Shape != stepShape && c.Rate == nil && c.Period < time.Millisecond:
		return nil, fmt.Errorf("--shape %s takes --period, 1ms or more", c.Shape)
	case c.Shape == stepShape && c.Period != 0:
		return nil, errors.New("--period is for --shape ramp, saw and spike")
	case c.Shape != stepShape && c.Rate == nil && most == 0:
		return nil, fmt.Errorf("--shape %s goes up to --max, which has to be more than 0", c.Shape)
	case waves && low >= most:
		return nil, errors.New("--low has to be less than --max")
	}
	switch {
	case c.Profile != "":
		text, err := os.ReadFile(c.Profile)
		if err != nil {
			return nil, err
		}
		curve, err := leak.ParseProfile(string(text), c.Repeat)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Profile, err)
		}
		return curve, nil
	case c.Rate != nil:
		return leak.Rate{BytesPerSecond: uint64(*c.Rate), Max: most}, nil
	case c.Shape == rampShape:
		return leak.Ramp(most, c.Period), nil
	case c.Shape == sawShape:
		return leak.Saw(low, most, c.Period), nil
	case c.Shape == spikeShape:
		return leak.Spike(low, most, c.Period), nil
	}
	return leak.Blocks{Block: block, Max: most, Every: every}, nil
}

// either is the size of the one of two flags that was given, or what there is without.
func either(short string, mb *uint64, long string, bytes *size, without uint64) (uint64, error) {
	switch {
	case mb != nil && bytes != nil:
		return 0, fmt.Errorf("%s and %s are the same in other units: one of them", short, long)
	case mb != nil && *mb > math.MaxInt64/mib:
		return 0, fmt.Errorf("%s %d is 2^63 bytes or more", short, *mb)
	case mb != nil:
		return *mb * mib, nil
	case bytes != nil:
		return uint64(*bytes), nil
	}
	return without, nil
}
