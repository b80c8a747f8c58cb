# The contract of capnp-rpc.
@0xc0f5e9f1b6a7d2e3;

struct Item {
  sku @0 :Text;
  quantity @1 :UInt32;
  price @2 :Float64;
}

struct Order {
  id @0 :UInt64;
  user @1 :Text;
  items @2 :List(Item);
  note @3 :Text;
}

interface Echo {
  order @0 (order :Order) -> (order :Order);
  text @1 (text :Text) -> (text :Text);
  blob @2 (blob :Data) -> (blob :Data);
  number @3 (number :UInt64) -> (number :UInt64);
  wait @4 (millis :UInt64) -> ();
  block @5 (millis :UInt64) -> ();
}
