#include "kernel/parser.h"

#include <algorithm>
#include <optional>

#include "kernel/functions.h"
#include "kernel/lexer.h"

namespace zmlx::kernel {

namespace {

struct Infix {
  std::string_view sign;
  int precedence;  ///< higher binds tighter
  Op op;
  bool swapped = false;  ///< a > b is b < a
};

constexpr Infix kInfix[] = {
    {"||", 1, Op::logical_or},
    {"&&", 2, Op::logical_and},
    {"|", 3, Op::bit_or},
    {"^", 4, Op::bit_xor},
    {"&", 5, Op::bit_and},
    {"==", 6, Op::equal},
    {"!=", 6, Op::not_equal},
    {"<", 7, Op::less},
    {"<=", 7, Op::less_equal},
    {">", 7, Op::less, true},
    {">=", 7, Op::less_equal, true},
    {"<<", 8, Op::shift_left},
    {">>", 8, Op::shift_right},
    {"+", 9, Op::add},
    {"-", 9, Op::subtract},
    {"*", 10, Op::multiply},
    {"/", 10, Op::divide},
    {"%", 10, Op::remainder},
};

bool is_logic(Op op) { return op == Op::logical_and || op == Op::logical_or; }
bool is_bits(Op op) { return (op >= Op::bit_and && op <= Op::shift_right) || op == Op::remainder; }

constexpr std::string_view kUnsupportedTypes[] = {"double", "char",  "short", "long",
                                                  "float4", "half4", "float2"};
constexpr std::string_view kWords[] = {"let", "const", "auto", "return"};

class Parser {
 public:
  Parser(std::string_view source, Tree& tree, Scope& scope)
      : source_(source), tree_(tree), scope_(scope), tokens_(tokenize(source)) {}

  NodeId run() {
    while (binding()) {
    }
    accept_name("return");
    const NodeId root = expression();
    accept(";");
    if (peek().kind != TokenKind::end) fail("expected an operator or the end");
    return root;
  }

 private:
  // Tokens.
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(i_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[std::min(i_++, tokens_.size() - 1)]; }
  bool is(std::string_view sign, size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::sign && peek(ahead).text == sign;
  }
  bool accept(std::string_view sign) {
    if (!is(sign)) return false;
    ++i_;
    return true;
  }
  bool accept_name(std::string_view name) {
    if (peek().kind != TokenKind::name || peek().text != name) return false;
    ++i_;
    return true;
  }
  void expect(std::string_view sign, const std::string& what) {
    if (!accept(sign)) fail("expected " + what);
  }
  [[noreturn]] void fail(const std::string& expected) const {
    throw SyntaxError(source_, peek().offset, expected + ", but found " + describe(peek()));
  }
  [[noreturn]] void fail_at(const Token& token, const std::string& message) const {
    throw SyntaxError(source_, token.offset, message);
  }

  /// Counts how deeply expressions lie within each other.
  struct Nesting {
    explicit Nesting(Parser& parser) : depth(parser.depth_) {
      if (++depth > kMaxNesting) {
        --depth;
        parser.fail_at(parser.peek(), "expressions lie within each other more than " +
                                          std::to_string(kMaxNesting) + " deep");
      }
    }
    ~Nesting() { --depth; }
    int& depth;
  };

  /// Builds an expression; that it grows too large is told with the place.
  template <typename Build>
  NodeId build(const Token& where, const Build& make) {
    try {
      return make();
    } catch (const std::length_error& error) {
      fail_at(where, error.what());
    }
  }

  std::optional<Type> type_at(size_t ahead) const {
    if (peek(ahead).kind != TokenKind::name) return std::nullopt;
    return find_type(peek(ahead).text, scope_.compute_type);
  }

  // Bindings: "let t = ...;", "T t = ...;".
  bool binding() {
    const size_t start = i_;
    accept_name("const");
    std::optional<Type> type;
    if (!accept_name("let") && !accept_name("auto")) {
      type = type_at(0);
      if (!type || peek(1).kind != TokenKind::name) {
        i_ = start;
        return false;
      }
      ++i_;
    }
    const Token& name = peek();
    if (name.kind != TokenKind::name) fail("expected a name to bind");
    if (!is_free_name(name.text)) {
      fail_at(name, describe(name) + " has a meaning already and cannot be bound");
    }
    ++i_;
    expect("=", "'=' after the name");
    NodeId value = expression();
    if (type) value = build(name, [&] { return tree_.cast(value, *type); });
    expect(";", "';' after the binding");
    scope_.bound.insert_or_assign(std::string(name.text), value);
    return true;
  }

  NodeId expression() {
    const Nesting nesting(*this);
    const NodeId condition = infix(1);
    const Token& question = peek();
    if (!accept("?")) return condition;
    const NodeId yes = expression();
    expect(":", "':' of '?'");
    const NodeId no = expression();
    return build(question, [&] {
      const NodeId args[] = {tree_.cast(condition, Type::boolean), yes, no};
      return find_function("where")->build(tree_, args);
    });
  }

  NodeId infix(int lowest) {
    NodeId left = unary();
    for (;;) {
      const Token& token = peek();
      const auto* found =
          std::find_if(std::begin(kInfix), std::end(kInfix), [&](const Infix& each) {
            return token.kind == TokenKind::sign && each.sign == token.text;
          });
      if (found == std::end(kInfix) || found->precedence < lowest) return left;
      ++i_;
      const Nesting nesting(*this);
      const NodeId right = infix(found->precedence + 1);
      left = build(token, [&] { return combine(*found, token, left, right); });
    }
  }

  NodeId combine(const Infix& infix, const Token& token, NodeId a, NodeId b) {
    Type type = common_type(tree_.type(a), tree_.type(b));
    const bool truths = tree_.type(a) == Type::boolean && tree_.type(b) == Type::boolean;
    if (is_logic(infix.op)) type = Type::boolean;
    if (is_bits(infix.op) && is_float(type)) {
      const std::string advice = infix.op == Op::remainder ? "; of floats, call fmod" : "";
      fail_at(token, "'" + std::string(token.text) + "' needs integers, not float" + advice);
    }
    if (infix.op == Op::shift_left || infix.op == Op::shift_right) {
      type = common_type(tree_.type(a), Type::int32);  // C: the left side's
    }
    if (truths && infix.op >= Op::bit_and && infix.op <= Op::bit_xor) {
      const auto bits = tree_.make(infix.op, tree_.cast(a, type), tree_.cast(b, type));
      return tree_.cast(bits, Type::boolean);
    }
    a = tree_.cast(a, type);
    b = tree_.cast(b, type);
    return infix.swapped ? tree_.make(infix.op, b, a) : tree_.make(infix.op, a, b);
  }

  NodeId unary() {
    const Nesting nesting(*this);
    const Token& token = peek();
    if (accept("-")) {
      const NodeId a = unary();
      return build(token, [&] { return tree_.make(Op::negate, to_number(a)); });
    }
    if (accept("+")) {
      const NodeId a = unary();
      return build(token, [&] { return to_number(a); });
    }
    if (accept("!")) {
      const NodeId a = unary();
      return build(token,
                   [&] { return tree_.make(Op::logical_not, tree_.cast(a, Type::boolean)); });
    }
    if (accept("~")) {
      const NodeId a = unary();
      if (is_float(tree_.type(a))) fail_at(token, "'~' needs an integer, not float");
      return build(token, [&] { return tree_.make(Op::bit_not, to_number(a)); });
    }
    if (is("(") && is(")", 2)) {
      if (const auto type = type_at(1)) {  // (T)x
        i_ += 3;
        const NodeId a = unary();
        return build(token, [&] { return tree_.cast(a, *type); });
      }
    }
    return primary();
  }

  NodeId to_number(NodeId a) { return tree_.cast(a, common_type(tree_.type(a), Type::int32)); }

  NodeId primary() {
    const Token& token = peek();
    if (token.kind == TokenKind::number) {
      ++i_;
      return build(token, [&] { return tree_.constant(token.value, token.type); });
    }
    if (accept("(")) {
      const NodeId inner = expression();
      if (!accept(")")) fail("expected ')' to match the '(' in column " + column(token));
      return inner;
    }
    if (token.kind == TokenKind::name) return named();
    fail("expected an expression");
  }

  std::string column(const Token& token) const {
    return std::to_string(SyntaxError(source_, token.offset, "").column());
  }

  NodeId named() {
    const Token& token = take();
    if (token.text == "static_cast") return static_cast_call();
    if (is("(")) {
      if (const auto type = find_type(token.text, scope_.compute_type)) {
        const auto args = arguments(token, 1);
        return build(token, [&] { return tree_.cast(args[0], *type); });
      }
      return call(token);
    }
    if (const auto found = scope_.bound.find(token.text); found != scope_.bound.end()) {
      return found->second;
    }
    return build(token, [&] { return constant_or_variable(token); });
  }

  NodeId constant_or_variable(const Token& token) {
    if (const auto* constant = find_constant(without_prefix(token.text))) {
      return tree_.constant(constant->value, constant->type);
    }
    if (!is_free_name(token.text)) {
      const bool function = find_function(without_prefix(token.text));
      fail_at(token, describe(token) + (function ? " is a function: expected '(' after it"
                                                 : " cannot stand here"));
    }
    if (!scope_.open) {
      std::string known;
      for (const auto& [name, id] : scope_.bound) known += (known.empty() ? "" : ", ") + name;
      fail_at(token, "there is no " + describe(token) + " here" +
                         (known.empty() ? "" : "; there is " + known));
    }
    return scope_.declare(tree_, std::string(token.text), scope_.compute_type);
  }

  NodeId static_cast_call() {
    expect("<", "'<' after static_cast");
    const auto type = type_at(0);
    if (!type) fail("expected a type");
    ++i_;
    expect(">", "'>' after the type");
    const Token& open = peek();
    const auto args = arguments(open, 1);
    return build(open, [&] { return tree_.cast(args[0], *type); });
  }

  std::vector<NodeId> arguments(const Token& function, size_t count) {
    expect("(", "'('");
    std::vector<NodeId> args;
    if (!is(")")) {
      do {
        args.push_back(expression());
      } while (accept(","));
    }
    const bool closed = accept(")");
    if (!closed) fail("expected ',' or ')' in the call of " + describe(function));
    if (args.size() != count) {
      fail_at(function, describe(function) + " takes " + std::to_string(count) +
                            (count == 1 ? " argument" : " arguments") + ", not " +
                            std::to_string(args.size()));
    }
    return args;
  }

  NodeId call(const Token& token) {
    const auto name = without_prefix(token.text);
    const auto* function = find_function(name);
    if (!function) unknown_function(token, name);
    auto args = arguments(token, function->arguments);
    return build(token, [&] {
      Type type = Type::int32;
      for (NodeId a : args) type = common_type(type, tree_.type(a));
      if (function->takes == Function::Takes::floats && !is_float(type)) type = Type::float32;
      if (function->takes != Function::Takes::any) {
        for (NodeId& a : args) a = tree_.cast(a, type);
      }
      const NodeId result = function->build(tree_, args.data());
      if (result < 0) {
        fail_at(token, name == "select" ? "the third argument of select(a, b, condition) must be "
                                          "bool; where(condition, a, b) has it first"
                                        : "the first argument of where(condition, a, b) must be "
                                          "bool");
      }
      return result;
    });
  }

  [[noreturn]] void unknown_function(const Token& token, std::string_view name) const {
    if (std::find(std::begin(kUnsupportedTypes), std::end(kUnsupportedTypes), name) !=
        std::end(kUnsupportedTypes)) {
      fail_at(token, describe(token) +
                         " is not a type here: T, float, half, bfloat, int, uint and bool are");
    }
    std::string message = "there is no function " + describe(token);
    std::string similar;
    for (const auto& function : all_functions()) {
      if (name.size() >= 2 && function.name.starts_with(name.substr(0, 2))) {
        similar += (similar.empty() ? "; there is " : ", ") + std::string(function.name);
      }
    }
    fail_at(token, message + similar);
  }

 private:
  std::string_view source_;
  Tree& tree_;
  Scope& scope_;
  std::vector<Token> tokens_;
  size_t i_ = 0;
  int depth_ = 0;
};

}  // namespace

NodeId Scope::declare(Tree& tree, const std::string& name, Type type) {
  const NodeId id = tree.variable(static_cast<int>(variables.size()), type);
  variables.push_back(name);
  bound.insert_or_assign(name, id);
  return id;
}

NodeId parse(std::string_view source, Tree& tree, Scope& scope) {
  return Parser(source, tree, scope).run();
}

bool is_free_name(std::string_view name) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  if (name.empty() || !is_letter(name[0])) return false;
  for (char c : name) {
    if (!is_letter(c) && !(c >= '0' && c <= '9')) return false;
  }
  if (find_function(without_prefix(name)) || find_constant(name)) return false;
  if (find_type(name, Type::float32) || name == "static_cast") return false;
  return std::find(std::begin(kWords), std::end(kWords), name) == std::end(kWords) &&
         std::find(std::begin(kUnsupportedTypes), std::end(kUnsupportedTypes), name) ==
             std::end(kUnsupportedTypes);
}

std::vector<std::string> function_names() {
  std::vector<std::string> names;
  for (const auto& function : all_functions()) names.emplace_back(function.name);
  return names;
}

}  // namespace zmlx::kernel
