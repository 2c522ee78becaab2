# Perl at work: the interpreter, its expressions, sorts with blocks of code, closures, objects, and errors.
use strict;
use warnings;
use List::Util qw(first reduce shuffle);
use Data::Dumper;
use Storable qw(dclone);
use Digest::MD5 qw(md5_hex);

srand(31);
$Data::Dumper::Sortkeys = sub { [ sort { $b cmp $a } keys %{ $_[0] } ] };

package Point;

sub new { my ( $class, $x, $y ) = @_; return bless { x => $x, y => [ ($y) x 3 ] }, $class }
sub text { my $self = shift; return join ",", $self->{x}, @{ $self->{y} } }
use overload '""' => \&text, '<=>' => sub { "$_[0]" cmp "$_[1]" };

sub DESTROY { my $self = shift; $self->{x} = "gone " x 20 }

package main;

sub thing {
    my $depth = shift;
    return "text" x int rand 60 if $depth <= 0;
    return [ map { thing( $depth - 1 ) } 1 .. int rand 4 ] if rand() < 0.5;
    return { map { rand() . "" => thing( $depth - 1 ) } 1 .. int rand 4 };
}

my @work = (
    sub { my $copy = dclone( { of => thing(4) } ); return Dumper($copy) },
    sub { my $text = "word 15 and 20 " x 20; $text =~ s/(\w+) (\d+)/"$2" x 3 . lc $1/ge; return $text },
    sub { my $n = int rand 50; my $re = qr/(a|b){$n}c|(?<d>x+)/; return ( "ababab" x 10 ) =~ $re ? 1 : "$re" },
    sub { return join "", sort { "$a" x 3 cmp "$b" x 3 } map { rand() } 1 .. 20 },
    sub { my @p = map { Point->new( rand(), "y" x rand 40 ) } 1 .. 10; return join "", sort { $a <=> $b } @p },
    sub { my %count; $count{ $_ % 17 } .= "x" x $_ for 1 .. 50; return scalar keys %count },
    sub { my @made = map { my $n = $_; sub { $n . "y" x shift } } 1 .. 10; return join "", map { $_->(30) } @made },
    sub { eval { die { why => "z" x rand 3000 } }; return ref $@ },
    sub { return eval join "+", map { "length('" . "x" x $_ . "')" } 1 .. int rand 30 },
    sub { my $sum = reduce { $a . $b } shuffle( 1 .. 40 ); return first { $_ > 3 } split //, $sum },
    sub { return md5_hex( pack "w*", map { int rand 1e6 } 1 .. 50 ) . sprintf "%s %.20f", "x" x 100, rand },
    sub { open my $in, "<", \( "line of text\n" x 30 ) or die; my @lines = <$in>; return scalar @lines },
    sub { my $f; $f = sub { my $n = shift; return $n ? [ $f->( $n - 1 ), "x" x $n ] : [] }; my $r = $f->( int rand 12 ); undef $f; return $r },
);

$| = 1;
print "ready\n";
my $kept;
$kept = $work[ rand @work ]->() while 1;
