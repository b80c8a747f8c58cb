// The contract of volo-thrift.
namespace rs echo

struct Item {
    1: required string sku,
    2: required i32 quantity,
    3: required double price,
}

struct Order {
    1: required i64 id,
    2: required string user,
    3: required list<Item> items,
    4: required string note,
}

service Echo {
    Order order(1: Order order),
    string text(1: string text),
    binary blob(1: binary blob),
    i64 number(1: i64 number),
    void wait(1: i64 millis),
    void block(1: i64 millis),
}
