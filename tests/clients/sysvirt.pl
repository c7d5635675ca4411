# Lives a guest's life with Sys::Virt, and follows it by events in libvirt's own loop.
#
#     sysvirt.pl URI DOCUMENT NAME
use strict;
use warnings;
use Sys::Virt;
use Sys::Virt::Domain;
use Sys::Virt::Event;

$| = 1;
my ($uri, $document, $name) = @ARGV;
open(my $file, '<', $document) or die "$document: $!";
my $xml = do { local $/; <$file> };

Sys::Virt::Event::register_default();
my $conn = Sys::Virt->new(uri => $uri);
print "type ", $conn->get_type, "\n";
print "uri ", $conn->get_uri, "\n";
my $version = $conn->get_library_version;
print "library $version\n";
my $node = $conn->get_node_info;
die "no CPU" unless $node->{cpus} > 0 && $node->{memory} > 0;

my @seen;
my $callback = $conn->domain_event_register_any(
    undef,
    Sys::Virt::Domain::EVENT_ID_LIFECYCLE,
    sub {
        my (undef, $domain, $event, $detail) = @_;
        push @seen, $event;
        print "event ", $domain->get_name, " $event $detail\n";
    }
);

# Runs the loop until an event of this kind has come.
sub await {
    my ($event) = @_;
    Sys::Virt::Event::run_default() while !grep { $_ == $event } @seen;
    @seen = ();
}

my $domain = $conn->define_domain($xml);
await(Sys::Virt::Domain::EVENT_DEFINED);
die "active" if $domain->is_active;
die "transient" unless $domain->is_persistent;
print "state ", ($domain->get_state)[0], "\n";
$domain->create;
await(Sys::Virt::Domain::EVENT_STARTED);
print "id ", ($domain->get_id > 0 ? "given" : "none"), "\n";
my $info = $domain->get_info;
print "info $info->{state} $info->{maxMem} $info->{nrVirtCpu}\n";
$domain->suspend;
await(Sys::Virt::Domain::EVENT_SUSPENDED);
print "state ", ($domain->get_state)[0], "\n";
$domain->resume;
await(Sys::Virt::Domain::EVENT_RESUMED);
$domain->set_autostart(1);
print "autostart ", $domain->get_autostart, "\n";
$domain->set_autostart(0);
my @names = sort map { $_->get_name } $conn->list_all_domains;
print "names @names\n";
print "active ", scalar($conn->list_domains), " of ", $conn->num_of_domains, "\n";
die "another document" unless $domain->get_xml_description =~ m{<name>\Q$name\E</name>};
eval { $domain->create };
print "error ", $@->code, " ", $@->message, "\n";
$domain->destroy;
await(Sys::Virt::Domain::EVENT_STOPPED);
$domain->undefine;
await(Sys::Virt::Domain::EVENT_UNDEFINED);
eval { $conn->get_domain_by_name($name) };
print "error ", $@->code, "\n";
$conn->domain_event_deregister_any($callback);
undef $domain;
undef $conn;
print "done\n";
